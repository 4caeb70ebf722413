"""A door that looks like another one but refuses to act: what `plan` and --dry-run go through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsctl.base.missing import Missing
from dsctl.base.step import Action
from dsctl.base.voice import Voice
from dsctl.reach.door import Door, RawProcess, Reply


class Dry:
    """Looks through `door`; any action is an error of ours, since a plan must not change anything."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def read(self, path: Path) -> str | Missing:
        """As the door behind."""
        return self._door.read(path)

    def names(self, directory: Path) -> Sequence[str]:
        """As the door behind."""
        return self._door.names(directory)

    def listing(self, directory: Path) -> str | Missing:
        """As the door behind."""
        return self._door.listing(directory)

    def get(self, url: str, token: Path | None = None) -> Reply | Missing:
        """As the door behind."""
        return self._door.get(url, token)

    def supervised(self) -> str | Missing:
        """As the door behind."""
        return self._door.supervised()

    def processes(self) -> Sequence[RawProcess]:
        """As the door behind."""
        return self._door.processes()

    def free_port(self, host: str, candidates: Sequence[int]) -> int:
        """As the door behind."""
        return self._door.free_port(host, candidates)

    def cores(self) -> int:
        """As the door behind."""
        return self._door.cores()

    def open_files(self) -> int:
        """As the door behind."""
        return self._door.open_files()

    def act(self, action: Action, voice: Voice) -> None:
        """Never."""
        raise RuntimeError(f"a dry run must not act: {action}")
