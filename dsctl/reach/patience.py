"""Waiting: every wait polls, has a deadline, and tells how long it has lasted."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dsctl.base.errors import DeadlineError
from dsctl.base.units import seconds
from dsctl.base.voice import Voice

POLL_S = 0.1


class Patience:
    """The time a whole verb may take, and the waits within it."""

    def __init__(self, limit_s: float = 0.0) -> None:
        """`limit_s` is --timeout; 0 means without limit."""
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s if limit_s else float("inf")

    def check(self) -> None:
        """DeadlineError when the verb's time is over."""
        if time.monotonic() > self._end:
            raise DeadlineError(
                f"not done within --timeout {seconds(self._limit_s)}", hint="run the same command again; it goes on"
            )

    def ticks(self, what: str, limit_s: float, voice: Voice) -> Iterator[float]:
        """Yields the seconds waited so far, at least once, every 0.1 s until `limit_s` is over; then simply ends."""
        start = time.monotonic()
        waited = 0.0
        while True:
            yield waited
            self.check()
            waited = time.monotonic() - start
            if waited > limit_s:
                return
            voice.waiting(what, waited, limit_s)
            time.sleep(POLL_S)
