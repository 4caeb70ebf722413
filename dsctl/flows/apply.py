"""Carrying a plan out: say each step, do it, and go back to what served when a new replica fails."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dsctl.base.errors import DeadlineError, DsctlError, StoppedError
from dsctl.base.step import SetTable, Step
from dsctl.base.units import seconds
from dsctl.base.voice import Voice
from dsctl.planning.rollout import retreat
from dsctl.reach.door import Door


def apply(steps: Sequence[Step], door: Door, voice: Voice) -> None:
    """Every step in order. A failure takes new replicas away again; an interruption leaves all for the next run."""
    done: list[Step] = []
    for step in steps:
        voice.say(sentence(step))
        done.append(step)
        started = time.monotonic()
        try:
            door.act(step.action, voice)
            voice.note(f"  done in {seconds(time.monotonic() - started)}")
        except (StoppedError, DeadlineError):
            raise
        except DsctlError as error:
            _go_back(done, door, voice)
            error.why = "\n".join(part for part in (error.why, _outcome(done)) if part)
            raise


def sentence(step: Step) -> str:
    """A step as one line."""
    return step.title + (f"  ({step.why})" if step.why else "")


def _go_back(done: Sequence[Step], door: Door, voice: Voice) -> None:
    front = next((s.action.front for s in done if isinstance(s.action, SetTable)), "")
    for step in retreat(done, front):
        voice.say(f"going back: {step.title}")
        try:
            door.act(step.action, voice)
        except DsctlError as error:
            voice.say(f"going back did not work: {error.message}")


def _outcome(done: Sequence[Step]) -> str:
    """What serves after a failure."""
    tables = [step.action for step in done if isinstance(step.action, SetTable)]
    if not tables:
        return "outcome: nothing that served was touched"
    active = [row.name for row in tables[-1].rows if row.state == "active"]
    return f"outcome: {', '.join(active)} still serve" if active else "outcome: nothing serves yet"
