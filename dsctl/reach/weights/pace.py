"""A cap on bytes per second that several threads share, and the rate and time left that follow from what was moved."""

from __future__ import annotations

import threading
import time


class Cap:
    """At most `rate` bytes a second over time, a quarter of a second's worth at once; 0: no cap."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Waits until these bytes may go."""
        if self._rate <= 0:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.25) + count / self._rate
            wait_s = self._free_at - now
        if wait_s > 0:
            time.sleep(wait_s)
