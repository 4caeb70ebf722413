"""Results to stdout, everything else to stderr; the one module that prints."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dsctl.base.errors import ConfirmationError, DsctlError
from dsctl.base.units import seconds

HEARTBEAT_S = 30.0
SCHEMA_VERSION = 1


def result(text: str) -> None:
    """The answer to the command, for people and pipes."""
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def piece(text: str) -> None:
    """A part of an answer that is still being written."""
    sys.stdout.write(text)
    sys.stdout.flush()


def json(value: dict[str, Any]) -> None:
    """The answer as one object that carries its schema version."""
    result(jsonlib.dumps({"schema_version": SCHEMA_VERSION} | value, ensure_ascii=False, indent=2))


def error(problem: DsctlError) -> None:
    """What, where, why, and what to do next; on stderr."""
    first, *rest = problem.lines()
    _line(paint(f"dsctl: {first}", "31"))
    for line in rest:
        _line(line)


def is_plain() -> bool:
    """True when escape sequences must not be written to stderr."""
    if os.environ.get("FORCE_COLOR"):
        return False
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in (None, "dumb") or not sys.stderr.isatty()


def paint(text: str, code: str) -> str:
    """`text` in a colour or style, where that is wanted."""
    return text if is_plain() else f"\033[{code}m{text}\033[0m"


def aside(text: str) -> None:
    """A part of something worth seeing that is not the answer (a model's reasoning), dimmed."""
    sys.stderr.write(paint(text, "2"))
    sys.stderr.flush()


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def steps(titles: Iterable[tuple[str, str]]) -> str:
    """A plan: one line a step, its reason in brackets."""
    return "\n".join(f"{n:>3}. {title}" + (f"  ({why})" if why else "") for n, (title, why) in enumerate(titles, 1))


class Terminal:
    """The voice of a flow on stderr: a line for each change of state, a heartbeat every 30 s while it waits."""

    def __init__(self, *, is_quiet: bool = False, is_verbose: bool = False, agreed: bool = False) -> None:
        self._is_quiet = is_quiet
        self._is_verbose = is_verbose
        self._agreed = agreed
        self._start = self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        self._spoke = time.monotonic()
        if not self._is_quiet:
            _line(f"{paint(f'{self._spoke - self._start:6.1f}s', '2')}  {text}")

    def note(self, text: str) -> None:
        """The same, with -v only."""
        if self._is_verbose:
            self.say(text)

    def waiting(self, what: str, elapsed_s: float, limit_s: float) -> None:
        """A heartbeat when nothing was said for 30 s."""
        if time.monotonic() - self._spoke >= HEARTBEAT_S:
            self.say(f"still waiting for {what}: {seconds(elapsed_s)} of at most {seconds(limit_s)}")

    def confirm(self, hazard: str, flag: str) -> None:
        """Asks on a terminal; without one only --yes helps."""
        if self._agreed:
            return
        again = f"dsctl {' '.join(sys.argv[1:])} {flag}"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfirmationError(f"{hazard}: this needs a yes, and there is no terminal to ask on", hint=again)
        sys.stderr.write(f"{hazard}. Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfirmationError("not confirmed; nothing was changed", hint=again)


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
