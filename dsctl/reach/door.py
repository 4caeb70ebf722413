"""What every door can do: look, without changing anything, and carry out one action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsctl.base.missing import Missing
from dsctl.base.step import Action
from dsctl.base.voice import Voice


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class RawProcess:
    """/proc of one process, unread."""

    pid: int
    stat: str
    environ: bytes


class Door(Protocol):
    """The way to one machine."""

    def read(self, path: Path) -> str | Missing:
        """The text of a file."""
        ...

    def names(self, directory: Path) -> Sequence[str]:
        """The names in a directory, sorted; none when there is no such directory."""
        ...

    def listing(self, directory: Path) -> str | Missing:
        """A checkpoint's files as JSON: [name, bytes, digest or modification time] each."""
        ...

    def get(self, url: str, token: Path | None = None) -> Reply | Missing:
        """GET within a second or two; `token` is the file that holds the bearer token."""
        ...

    def supervised(self) -> str | Missing:
        """supervisord's pid and programs as JSON."""
        ...

    def processes(self) -> Sequence[RawProcess]:
        """All processes of this user."""
        ...

    def free_port(self, host: str, candidates: Sequence[int]) -> int:
        """The first candidate nobody listens on; PreflightError when there is none."""
        ...

    def cores(self) -> int:
        """Cores this process may use."""
        ...

    def open_files(self) -> int:
        """Most file descriptors a program may be given here."""
        ...

    def act(self, action: Action, voice: Voice) -> None:
        """Carries out one action; checks first whether it is still needed."""
        ...
