"""What a load worker finds out about itself while it measures: how late its loop wakes up, and how busy it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from time import perf_counter

import msgspec

NAP_S = 0.01
SECOND = 1.0


class Second(msgspec.Struct, frozen=True):
    """One second of a worker: when it ended (s after the start), CPU used (fraction of a core), naps and late ones.

    `lags` are how late the naps of this second ended, in seconds.
    """

    at: float
    cpu: float
    lags: list[float]


class Probe:
    """Naps of 10 ms in a row; `sleep` is the loop's own, so a nap that ends late is an event that is seen late."""

    def __init__(self, sleep: Callable[[float], object], start: float) -> None:
        self._sleep = sleep
        self._start = start
        self.seconds: list[Second] = []

    def run(self, each_second: Callable[[], None]) -> None:
        """For ever; `each_second` is called about once a second."""
        lags: list[float] = []
        since, cpu = perf_counter(), time.process_time()
        while True:
            before = perf_counter()
            self._sleep(NAP_S)
            now = perf_counter()
            lags.append(max(0.0, round(now - before - NAP_S, 6)))
            if now - since >= SECOND:
                used = time.process_time()
                self.seconds.append(Second(now - self._start, round((used - cpu) / (now - since), 4), lags))
                lags, since, cpu = [], now, used
                each_second()
