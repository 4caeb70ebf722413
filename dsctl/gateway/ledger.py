"""The gateway's ledger: one line per request, written at its single terminal event."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from dsctl.gateway.session import Session


class Ledger:
    """Appends JSON lines, a tick's worth in one write; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else -1
        self._lines: list[bytes] = []

    def write(self, session: Session, outcome: str, status: int, code: str) -> None:
        """One request ended as done, refused, aborted or failed."""
        if self._fd < 0:
            return
        call, history = session.call, session.history
        line = {
            "id": call.id,
            "request_id": call.request_id,
            "key": call.key,
            "route": call.route,
            "stream": call.streams,
            "outcome": outcome,
            "status": status,
            "code": code,
            "seed": call.seed,
            "ids": history.ids,
            "finished": history.finished,
            "usage": session.usage,
            "attempts": session.attempts,
            "continuations": session.continuations,
            "longest_gap_s": round(session.longest_gap, 4),
            "ttft_s": round(session.first_token - session.began, 4) if session.first_token else None,
            "at": time.time(),
        }
        self._lines.append(msgspec.json.encode(line))

    def flush(self) -> None:
        """Write what has gathered; called every tick and at the end."""
        if self._lines:
            lines, self._lines = self._lines, []
            os.write(self._fd, b"\n".join(lines) + b"\n")
