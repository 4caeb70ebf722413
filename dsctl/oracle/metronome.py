"""An exact schedule for the oracle: token k is sent at start + TTFT + k × ITL, and how late it was is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

HANG_S = 0.005  # while a hang is on, due tokens are looked at again after this
BUCKET_S = 0.0001
BUCKETS = 20_000  # lateness up to 2 s; later ones count as 2 s


class Lateness:
    """How late tokens were sent, in buckets of 0.1 ms."""

    def __init__(self) -> None:
        self._buckets = [0] * (BUCKETS + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        """One token."""
        self._buckets[min(BUCKETS, max(0, int(seconds / BUCKET_S)))] += 1
        self.count += 1

    def quantile(self, q: float) -> float:
        """Seconds; 0 when nothing was sent."""
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= q * self.count:
                return bucket * BUCKET_S
        return 0.0

    def reset(self) -> None:
        """Count anew."""
        self._buckets = [0] * (BUCKETS + 1)
        self.count = 0


class Metronome:
    """Sends each sequence's tokens at absolute times, so that lateness never adds up."""

    def __init__(self, is_hanging: Callable[[], bool]) -> None:
        self._is_hanging = is_hanging
        self.lateness = Lateness()

    def play(self, first_s: float, every_s: float, token: Callable[[], bool]) -> None:
        """Call `token` after `first_s`, then every `every_s` seconds, until it returns False."""
        asyncio.get_running_loop().call_later(first_s, self._beat, time.monotonic() + first_s, every_s, token)

    def _beat(self, due: float, every_s: float, token: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        if self._is_hanging():
            loop.call_later(HANG_S, self._beat, due, every_s, token)
            return
        now = time.monotonic()
        self.lateness.add(now - due)
        if token():
            due += every_s
            loop.call_later(max(0.0, due - now), self._beat, due, every_s, token)
