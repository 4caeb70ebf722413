"""Carrying a fleet's plan out: say each step, note it on its host, do it; take new copies back when one fails."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from dsctl.base.errors import DeadlineError, DsctlError, LockHeldError, StoppedError
from dsctl.base.fleetstep import (
    AwaitReady,
    BuildImage,
    Drain,
    EditTable,
    EndContainer,
    FetchImage,
    FleetStep,
    ForgetProject,
    PullImage,
    PullWeights,
    RunContainer,
    SpreadWeights,
)
from dsctl.base.units import seconds
from dsctl.base.voice import Voice
from dsctl.flows.fleetevents import tell_step
from dsctl.reach.fleetdoor import FleetDoor
from dsctl.reach.hostdoor import FencedError

STOP_S = 25
WAITS = (
    AwaitReady,
    Drain,
    FetchImage,
    BuildImage,
    PullImage,
    ForgetProject,
    SpreadWeights,
    PullWeights,
)  # remembered apart, or not at all


def apply_fleet(steps: Sequence[FleetStep], door: FleetDoor, voice: Voice, verb: str) -> None:
    """Every step in order. A failure ends and unlists copies that never took traffic; an interruption leaves all."""
    done: list[FleetStep] = []
    pace: dict[str, list[float]] = {}
    for count, step in enumerate(steps, 1):
        voice.say(f"[{count}/{len(steps)}] {sentence(step)}")
        done.append(step)
        began = time.monotonic()
        place = (count, len(steps))
        tell_step(voice, "begin", place, step, why=step.why)
        _note(door, step, verb, "begin", "")
        try:
            door.act(step, voice)
        except (StoppedError, DeadlineError, FencedError, LockHeldError):
            raise
        except DsctlError as error:
            tell_step(voice, "failed", place, step, why=error.message)
            _note(door, step, verb, "failed", error.message)
            _go_back(done, door, voice)
            error.message = error.message if step.host in error.message else f"{step.host}: {error.message}"
            raise
        took = time.monotonic() - began
        tell_step(voice, "end", place, step, s=round(took, 3))
        _note(door, step, verb, "end", "", took)
        if not isinstance(step.action, WAITS):
            pace.setdefault(type(step.action).__name__, []).append(took)
        voice.note(f"  done in {seconds(took)}")
    _remember_pace(door, done, pace)


def sentence(step: FleetStep) -> str:
    """A step as one line."""
    return f"{step.host}: {step.title}" + (f"  ({step.why})" if step.why else "")


def retreat(done: Sequence[FleetStep]) -> list[FleetStep]:
    """Copies that were started and took no traffic, or a canary's share, leave the table and end; their logs stay."""
    pending: dict[str, FleetStep] = {}
    fronts: tuple[str, ...] = ()
    for step in done:
        action = step.action
        if step.replica and isinstance(action, RunContainer):
            pending[step.replica] = step
        elif isinstance(action, EditTable):
            fronts = action.fronts
            for row in action.rows:
                if row.state == "active" and not row.share:
                    pending.pop(row.name, None)
    if not pending:
        return []
    names = tuple(pending)
    where = fronts[0] if fronts else next(iter(pending.values())).host
    found = [FleetStep(where, f"take {', '.join(names)} out of the table", EditTable(fronts, (), names))]
    for name, step in pending.items():
        assert isinstance(step.action, RunContainer)
        ended = EndContainer(step.action.spec.name, "", STOP_S, is_kept=True)
        found.append(FleetStep(step.host, f"stop {name} on {step.host}; its log stays", ended))
    return found


def _go_back(done: Sequence[FleetStep], door: FleetDoor, voice: Voice) -> None:
    for step in retreat(done):
        voice.say(f"going back: {sentence(step)}")
        try:
            door.act(step, voice)
        except DsctlError as error:
            voice.say(f"going back did not work: {error.message}")


def _note(door: FleetDoor, step: FleetStep, verb: str, event: str, why: str, took: float = 0.0) -> None:
    """One line of the host's journal; a host that cannot write it does not get the step either."""
    line = {
        "at": round(time.time(), 3), "by": _actor(), "verb": verb, "event": event, "step": step.title,
        **({"why": why} if why else {}), **({"s": round(took, 3)} if took else {}),
    }  # fmt: skip
    host = door.hosts.get(step.host)
    if host is None:
        return
    if event == "begin":
        host.append("journal.jsonl", json.dumps(line, ensure_ascii=False))
    else:
        with suppress(DsctlError):
            host.append("journal.jsonl", json.dumps(line, ensure_ascii=False))


def _remember_pace(door: FleetDoor, done: Sequence[FleetStep], pace: Mapping[str, Sequence[float]]) -> None:
    """How long each kind of step took on average, for the next plan's estimate."""
    host = door.hosts.get(done[0].host) if done else None
    if host is None or not pace or isinstance(done[-1].action, ForgetProject):
        return
    with suppress(DsctlError):
        for kind, times in pace.items():
            told = {"what": kind, "model": "", "s": round(sum(times) / len(times), 3)}
            host.append("loads.jsonl", json.dumps(told))


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
