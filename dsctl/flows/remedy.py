"""`dsctl doctor --fix`: listed, reversible repairs of this machine: shown, agreed to, written down, done, checked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from dsctl.base.errors import PreflightError
from dsctl.base.missing import Missing
from dsctl.base.places import default_home, private_dir
from dsctl.base.voice import Voice
from dsctl.doctor import remedies
from dsctl.doctor.remedies import TABLE, Turn
from dsctl.doctor.report import Diagnosis
from dsctl.flows.diagnose import Gathered, Wish, require_live
from dsctl.reach import knobs, lock


def plan(wish: Wish, seen: Gathered, diagnosis: Diagnosis) -> list[Turn]:
    """The changes. UsageError where this machine was not looked at: nothing is repaired from somebody else's log."""
    require_live(wish, "--fix")
    turns: list[Turn] = []
    for rule in remedies.wanted(diagnosis.findings, seen.host):
        for pattern, change in TABLE[rule]:
            for name in knobs.matching(pattern):
                now = knobs.read(name)
                new = None if isinstance(now, Missing) else change(now)
                if not isinstance(now, Missing) and new is not None:
                    turns.append(Turn(rule, name, remedies.current(now), new))
    return turns


def apply(turns: Sequence[Turn], voice: Voice) -> Path:
    """Asks, locks, makes each change; the journal, which is returned, has every old value before it is replaced."""
    voice.confirm(
        f"{len(turns)} setting{'' if len(turns) == 1 else 's'} of this machine will change until the next reboot",
        "--yes",
    )
    home = default_home(os.environ) / "doctor"
    private_dir(home)
    journal = home / "journal.jsonl"
    with lock.held(home / "lock", "doctor --fix"):
        for turn in turns:
            _guard(turn)
            _note(journal, turn, "before")
            knobs.write(turn.name, turn.new)
            _check(turn)
            _note(journal, turn, "done")
            voice.say(f"{turn.title}   undo: {turn.undo}")
    return journal


def _guard(turn: Turn) -> None:
    """The value must still be what was shown."""
    now = knobs.read(turn.name)
    if isinstance(now, Missing) or remedies.current(now) != turn.old:
        found = now.reason if isinstance(now, Missing) else now
        raise PreflightError(f"/{turn.name} is no longer {turn.old}: {found}", hint="dsctl doctor --fix looks again")


def _check(turn: Turn) -> None:
    now = knobs.read(turn.name)
    if isinstance(now, Missing) or remedies.current(now).split() != turn.new.split():
        raise PreflightError(f"/{turn.name} did not take {turn.new}", why=str(now), hint=turn.undo)


def _note(journal: Path, turn: Turn, state: str) -> None:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": when, "state": state, "rule": turn.rule, "setting": f"/{turn.name}"}
    line |= {"old": turn.old, "new": turn.new, "undo": turn.undo}
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
