"""An optional file with one JSON line for every sequence that ended, to compare with what clients received."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One ended sequence; ids_sha256 is over the ids in decimal, joined by commas."""

    id: str
    choice: int
    attempt: int
    ids_sha256: str
    tokens: int
    finished: str
    epoch: int


def hash_ids(ids: list[int]) -> str:
    """SHA-256 of the ids in decimal, joined by commas."""
    return hashlib.sha256(",".join(map(str, ids)).encode("ascii")).hexdigest()


class Ledger:
    """Appends whole lines; a reader never sees half of one."""

    def __init__(self, path: str | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted."""
        return self._fd is not None

    def write(self, line: LedgerLine) -> None:
        """Append one line."""
        if self._fd is not None:
            os.write(self._fd, msgspec.json.encode(line) + b"\n")
