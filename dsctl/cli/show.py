"""Results to stdout, everything else to stderr; the one module that prints."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsctl.base.errors import ConfirmationError, DsctlError, StoppedError, UsageError
from dsctl.base.exits import Exit
from dsctl.base.units import seconds

if TYPE_CHECKING:
    from dsctl.base.secret import Secret
    from dsctl.base.step import Step
    from dsctl.flows.deploy import Planned
    from dsctl.flows.settings import Resolved
    from dsctl.flows.status import ReplicaStatus, Status

HEARTBEAT_S = 30.0
SCHEMA_VERSION = 1
# What a terminal would obey instead of show: a model's words, a log or a server's error may hold it.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """`text` without what a terminal would obey instead of show."""
    return text.translate(_CONTROLS)


def result(text: str) -> None:
    """The answer to the command, for people and pipes."""
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def piece(text: str) -> None:
    """A part of an answer that is still being written; a pipe gets it as it is, a terminal without control codes."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def log_line(text: str) -> None:
    """One line of a log."""
    piece(text + "\n")


def _object(value: Mapping[str, Any]) -> None:
    """The answer as one object that carries its schema version."""
    result(jsonlib.dumps({"schema_version": SCHEMA_VERSION, **value}, ensure_ascii=False, indent=2))


def json(value: Mapping[str, Any]) -> None:
    """The answer as one object with its schema version, for verbs whose result needs no other form."""
    _object(value)


def warn(text: str) -> None:
    """Something that is not as it should be, on stderr."""
    _line(paint(f"dsctl: {text}".translate(_CONTROLS), "33"))


def error(problem: DsctlError) -> None:
    """What, where, why, and what to do next; on stderr."""
    first, *rest = (line.translate(_CONTROLS) for line in problem.lines())
    _line(paint(f"dsctl: {first}", "31"))
    for line in rest:
        _line(line)


@contextmanager
def stopping_quietly() -> Generator[None]:
    """Where Ctrl-C is how one ends it (an answer long enough, a log seen), it needs no words, only its exit code."""
    try:
        yield
    except StoppedError as stop:
        _line("")
        raise SystemExit(int(stop.exit_code)) from None


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
    sys.stderr.write(paint(text.translate(_CONTROLS), "2"))
    sys.stderr.flush()


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def plan(steps: Sequence[Step], *, json: bool) -> Exit:
    """The steps that would be taken, and the exit code that says whether there are any."""
    if json:
        _object({"steps": [{"title": step.title, "why": step.why} for step in steps]})
    elif steps:
        lines = [step.title + (f"  ({step.why})" if step.why else "") for step in steps]
        result("\n".join(f"{n:>3}. {line}" for n, line in enumerate(lines, 1)))
    else:
        result("nothing to do: everything is as it should be")
    return Exit.PENDING if steps else Exit.OK


def diff(text: str, *, json: bool) -> Exit:
    """The drift, and the exit code that says whether there is any."""
    if json:
        _object({"diff": text})
    else:
        result(text)
    return Exit.PENDING if text else Exit.OK


def deployed(done: Planned, *, json: bool) -> None:
    """Where it serves now, and a request to try it with."""
    if json:
        _object({"changed": bool(done.steps), "url": done.url, "model": done.model, "replicas": done.replicas})
        return
    if not done.steps:
        _line("nothing to do: everything is as it should be")
    body = jsonlib.dumps({"model": done.model, "messages": [{"role": "user", "content": "What is 17 + 25?"}]})
    result(f"{done.model} serves on {done.url}  (replicas: {done.replicas})\n")
    result(f"curl {done.url}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{body}'")


def ended(steps: Sequence[Step], *, json: bool) -> None:
    """That it is gone."""
    if json:
        _object({"changed": bool(steps)})
    else:
        result("everything has ended" if steps else "nothing was running")


def status(found: Status, *, json: bool) -> None:
    """The replicas as a table or as the contract's object; what is wrong beside them on stderr."""
    if json:
        _object(found.as_json())
    else:
        heading = ("replica", "state", "url", "api pid", "core pids", "restarts", "numerics")
        rows = [_row(replica) for replica in found.replicas]
        head = f"{found.project}  {found.url or 'not deployed'}"
        result(f"{head}\n\n{columns([heading, *rows])}" if rows else head)
    for trouble in found.troubles:
        warn(trouble)


def _row(replica: ReplicaStatus) -> tuple[str, ...]:
    pids = " ".join(str(pid) for pid in replica.core_pids) or "-"
    numerics = (replica.numerics_id or "-")[:12]
    pid = str(replica.api_pid or "-")
    return (replica.name, replica.state, replica.url, pid, pids, str(replica.restarts), numerics)


def settings(found: Resolved, *, json: bool) -> None:
    """All settings in effect."""
    if json:
        _object({"source": found.source, "settings": found.values})
    else:
        result(found.text)


def document(content: str | dict[str, object]) -> None:
    """A text, or an object that has a version of its own (a JSON Schema)."""
    result(content if isinstance(content, str) else jsonlib.dumps(content, ensure_ascii=False, indent=2))


def diagnosed(content: str | dict[str, Any]) -> None:
    """A report as text, or as one object that carries its schema version."""
    if isinstance(content, str):
        result(content)
    else:
        _object(content)


def files(texts: Mapping[str, str], *, json: bool) -> None:
    """Rendered files one after the other, each under its name."""
    if json:
        _object({"files": dict(texts)})
    else:
        result("\n".join(f"# ---- {name}\n{text}" for name, text in texts.items()))


def issued(key_id: str, key: Secret, *, json: bool) -> None:
    """A new key: itself on stdout, this once; its id beside it."""
    if json:
        _object({"id": key_id, "key": key.reveal()})
    else:
        _line(f"key {key_id}; it is shown this once:")
        result(key.reveal())


def keys(entries: Sequence[Mapping[str, str]], *, are_wanted: bool, json: bool) -> None:
    """The keys that open the front."""
    if json:
        _object({"keys": [dict(entry) for entry in entries], "wanted": are_wanted})
    elif entries:
        rows = [(entry["id"], entry.get("name", ""), entry.get("created", "")) for entry in entries]
        result(columns([("id", "name", "created"), *rows]))
    else:
        _line("no key is left: every request is refused until one is issued" if are_wanted else "no keys are asked for")


def question(given: str | None) -> str:
    """What to ask: the argument, else what stdin holds."""
    if given is None and sys.stdin.isatty():
        raise UsageError("chat what?", hint='dsctl chat "What is 17 + 25?"')
    asked = sys.stdin.read() if given is None else given
    if not asked.strip():
        raise UsageError("the question is empty", hint='dsctl chat "What is 17 + 25?"')
    return asked


def conversation(pieces: Iterable[tuple[str, str]]) -> None:
    """An answer as it comes to stdout; the reasoning before it to stderr, where a terminal shows it."""
    kind = ""
    for kind_now, text in pieces:
        if kind_now == "answer":
            if kind == "reasoning" and sys.stderr.isatty():
                aside("\n")
            piece(text)
        elif sys.stderr.isatty():
            aside(text)
        kind = kind_now
    piece("\n")


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
