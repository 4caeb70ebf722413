"""`--events FILE`: what a change of a fleet does, as JSON lines beside the words; docs/PROTOCOL.md tells the fields."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dsctl.base.errors import DsctlError, UsageError
from dsctl.base.fleetstep import FleetStep
from dsctl.base.voice import Voice

SCHEMA_VERSION = 1
WAITING_S = 5.0  # between two events of the same wait


class EventVoice:
    """A voice that also writes events; each line is flushed, so a reader follows and a cut loses nothing told."""

    def __init__(self, voice: Voice, stream: IO[str]) -> None:
        self._voice, self._stream = voice, stream
        self._waited = 0.0

    def say(self, text: str) -> None:
        """Words for people; steps have events of their own."""
        self._voice.say(text)
        if not text.startswith("["):
            self.event("said", text=text.strip())

    def note(self, text: str) -> None:
        """A detail, for people only."""
        self._voice.note(text)

    def waiting(self, what: str, elapsed_s: float, limit_s: float) -> None:
        """At most every few seconds."""
        self._voice.waiting(what, elapsed_s, limit_s)
        if time.monotonic() - self._waited >= WAITING_S:
            self._waited = time.monotonic()
            self.event("waiting", what=what, elapsed_s=round(elapsed_s, 1), limit_s=round(limit_s, 1))

    def confirm(self, hazard: str, flag: str) -> None:
        """Asked of the person."""
        self._voice.confirm(hazard, flag)

    def event(self, kind: str, **fields: Any) -> None:
        """One line."""
        line = {"schema_version": SCHEMA_VERSION, "at": round(time.time(), 3), "event": kind, **fields}
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


def tell_step(voice: Voice, phase: str, place: tuple[int, int], step: FleetStep, **fields: Any) -> None:
    """A step began, ended or failed; nothing where nobody wants events. `place`: its number, and of how many."""
    if isinstance(voice, EventVoice):
        voice.event(
            "step", phase=phase, number=place[0], of=place[1], host=step.host, title=step.title,
            action=type(step.action).__name__, **fields,
        )  # fmt: skip


@contextmanager
def events(path: Path | None, voice: Voice, verb: str, project: str) -> Generator[Voice]:
    """The voice of one run, with a first and a last event; the same voice where no file is named."""
    if path is None:
        yield voice
        return
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--events {path} cannot be written: {error.strerror}", hint="another FILE") from error
    with stream:
        heard = EventVoice(voice, stream)
        heard.event("begin", verb=verb, project=project)
        try:
            yield heard
        except DsctlError as error:
            told = {"message": error.message, "why": error.why, "hint": error.hint}
            heard.event("end", outcome="failed", exit_code=int(error.exit_code), **told)
            raise
        heard.event("end", outcome="done", exit_code=0)
