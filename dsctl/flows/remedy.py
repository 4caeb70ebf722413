"""`dsctl doctor --fix`: listed, reversible repairs, one machine at a time: shown, agreed to, written down, done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from dsctl.base.errors import PreflightError
from dsctl.base.missing import Missing
from dsctl.base.places import default_home, private_dir
from dsctl.base.voice import Voice
from dsctl.config.settings import load
from dsctl.doctor import remedies
from dsctl.doctor.remedies import TABLE, Turn
from dsctl.doctor.report import Diagnosis
from dsctl.flows.diagnose import Gathered, Wish, is_about_here, require_machines
from dsctl.reach import knobs, lock

HERE = ""  # this machine, among hosts by name
ROOT = ""  # below which the settings of hosts lie


class Machine(Protocol):
    """Settings that can be read and, under a lock, be set; a journal of what was set."""

    @property
    def journal(self) -> str:
        """Where it lies."""
        ...

    def matching(self, pattern: str) -> list[str]:
        """The settings that a pattern names."""
        ...

    def read(self, name: str) -> str | Missing:
        """The value now."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """The lock, while the block runs."""
        ...

    def write(self, name: str, value: str) -> None:
        """Sets it."""
        ...

    def note(self, line: str) -> None:
        """A line of the journal."""
        ...


class Here:
    """This machine."""

    def __init__(self) -> None:
        self._home = default_home(os.environ) / "doctor"

    @property
    def journal(self) -> str:
        """Where it lies."""
        return str(self._home / "journal.jsonl")

    def matching(self, pattern: str) -> list[str]:
        """The settings that a pattern names."""
        return knobs.matching(pattern)

    def read(self, name: str) -> str | Missing:
        """The value now."""
        return knobs.read(name)

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """The lock, while the block runs."""
        private_dir(self._home)
        with lock.held(self._home / "lock", "doctor --fix"):
            yield

    def write(self, name: str, value: str) -> None:
        """Sets it."""
        knobs.write(name, value)

    def note(self, line: str) -> None:
        """A line of the journal, on disk before this returns."""
        with Path(self.journal).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def machines(wish: Wish, seen: Gathered) -> Generator[Mapping[str, Machine], None, None]:
    """The machines that were looked at, by name. UsageError where only logs were: nothing is repaired for others."""
    require_machines(wish, "--fix")
    found: dict[str, Machine] = {HERE: Here()} if is_about_here(wish) else {}
    with ExitStack() as stack:
        if seen.fleet.cases:
            from dsctl.flows import hosts
            from dsctl.reach.ssh.hostknobs import HostKnobs

            settings = load(None)
            opened = stack.enter_context(hosts.ways(settings))
            directory = settings.text("inventory.state_dir").rstrip("/") + "/doctor"
            for entry in hosts.chosen(settings, wish.hosts):
                if entry.name in seen.fleet.cases:
                    found[entry.name] = HostKnobs(opened.host(entry), directory, ROOT)
        yield found


def plan(found: Mapping[str, Machine], seen: Gathered, diagnosis: Diagnosis) -> list[Turn]:
    """The changes, machine by machine."""
    turns: list[Turn] = []
    for name, machine in found.items():
        whose = ("", seen.host) if name == HERE else (name,)
        for rule in remedies.wanted(diagnosis.findings, whose):
            for pattern, change in TABLE[rule]:
                turns += _turns(rule, machine, pattern, change, name)
    return turns


def _turns(rule: str, machine: Machine, pattern: str, change: remedies.Change, host: str) -> list[Turn]:
    turns: list[Turn] = []
    for name in machine.matching(pattern):
        now = machine.read(name)
        new = None if isinstance(now, Missing) else change(now)
        if not isinstance(now, Missing) and new is not None:
            turns.append(Turn(rule, name, remedies.current(now), new, host))
    return turns


def apply(turns: Sequence[Turn], found: Mapping[str, Machine], voice: Voice) -> list[str]:
    """Asks; then machine by machine: locks it, makes its changes, each checked. Returns the journals.

    A journal has every old value before it is replaced. The first failure ends it: later machines are untouched.
    """
    names = list(dict.fromkeys(turn.host for turn in turns))
    where = ", ".join(name or "this machine" for name in names)
    count = f"{len(turns)} setting{'' if len(turns) == 1 else 's'}"
    voice.confirm(f"{count} of {where} will change until the next reboot", "--yes")
    for name in names:
        machine = found[name]
        with machine.held():
            for turn in (turn for turn in turns if turn.host == name):
                _make(turn, machine)
                voice.say(f"{turn.title}   undo: {turn.undo}")
    return [found[name].journal for name in names]


def _make(turn: Turn, machine: Machine) -> None:
    _guard(turn, machine)
    machine.note(_line(turn, "before"))
    machine.write(turn.name, turn.new)
    now = machine.read(turn.name)
    if isinstance(now, Missing) or remedies.current(now).split() != turn.new.split():
        raise PreflightError(f"{turn.place} did not take {turn.new}", why=str(now), hint=turn.undo)
    machine.note(_line(turn, "done"))


def _guard(turn: Turn, machine: Machine) -> None:
    """The value must still be what was shown."""
    now = machine.read(turn.name)
    if isinstance(now, Missing) or remedies.current(now) != turn.old:
        told = now.reason if isinstance(now, Missing) else now
        raise PreflightError(f"{turn.place} is no longer {turn.old}: {told}", hint="dsctl doctor --fix looks again")


def _line(turn: Turn, state: str) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told = {"time": when, "state": state, "rule": turn.rule, "setting": f"/{turn.name}"}
    return json.dumps(told | {"old": turn.old, "new": turn.new, "undo": turn.undo}, ensure_ascii=False)
