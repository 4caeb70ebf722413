"""The oracle's own ledger: one line when an attempt starts and one when it ends."""

from __future__ import annotations

import os
import time
from typing import Protocol

from dsctl.oracle.replies import encode


class Named(Protocol):
    """What a record needs of an attempt."""

    id: str
    attempt: int


class Record:
    """Appends lines to a file, each in one write so that a kill never leaves half a line; no path: keeps nothing."""

    def __init__(self, path: str | None, name: str) -> None:
        self._name = name
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else -1

    def started(self, attempt: Named, counts: list[int]) -> None:
        """An attempt begins; `counts` are the tokens per choice it was told the client has."""
        self._line(attempt, {"event": "start", "from": counts})

    def ended(self, attempt: Named, outcome: str, counts: list[int]) -> None:
        """An attempt ends as done, aborted or broken."""
        self._line(attempt, {"event": "end", "outcome": outcome, "counts": counts})

    def _line(self, attempt: Named, fields: dict[str, object]) -> None:
        if self._fd < 0:
            return
        head = {"id": attempt.id, "attempt": attempt.attempt, "replica": self._name, "pid": os.getpid()}
        os.write(self._fd, encode({**head, **fields, "at": time.time()}) + b"\n")
