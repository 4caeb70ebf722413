"""The processes of one project on this machine, and those that lost their supervisor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOME, PROJECT, PROGRAM = "DSCTL_HOME", "DSCTL_PROJECT", "DSCTL_PROGRAM"
SUPERVISOR = "supervisord"  # the program name of supervisord itself


@dataclass(frozen=True, slots=True)
class Process:
    """One process that carries the marks of a dsctl program in its environment."""

    pid: int
    parent: int
    started: str  # start time in clock ticks since boot; with the pid it names one process for ever
    program: str


def parse_process(pid: int, stat: str, environ: bytes, home: str, project: str) -> Process | None:
    """Reads /proc/PID/stat and environ; None when the process is not one of this project (that is no fault)."""
    marks: dict[str, str] = {}
    for item in environ.decode("utf-8", "surrogateescape").split("\0"):
        name, _, value = item.partition("=")
        marks[name] = value
    if marks.get(HOME) != home or marks.get(PROJECT) != project or not marks.get(PROGRAM):
        return None
    fields = stat.rpartition(")")[2].split()  # the name in brackets may hold anything
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[1]), fields[19], marks[PROGRAM])


def orphans(found: Iterable[Process], supervisor_pid: int) -> list[Process]:
    """The topmost processes of programs whose line of parents does not lead to the running supervisord.

    `supervisor_pid` is 0 when none answers. A core below its API process is not listed: it ends with its parent.
    """
    by_pid = {process.pid: process for process in found}
    lost: list[Process] = []
    for process in by_pid.values():
        if process.program == SUPERVISOR:
            continue
        parent = by_pid.get(process.parent)
        is_top = parent is None or parent.program == SUPERVISOR
        if is_top and process.parent != supervisor_pid:
            lost.append(process)
    return sorted(lost, key=lambda process: process.pid)
