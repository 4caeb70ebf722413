"""Decides that a core hangs, by time in which this process itself ran, so that a stalled host accuses nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.server.supervision.core_process import CoreProcess, is_stopped
from engine.server.supervision.stepclock import StepClock
from engine.wire.messages import Beat

TICK_S = 0.02
STOPPED_SILENCE_S = 0.4  # the operating system says the core is stopped
STARVED_SILENCE_S = 2.0  # the core could run but does not get to: a busy machine
LOADING_SILENCE_S = 30.0  # before ready: imports and self-checks may hold the interpreter
IDLE_STALL_S = 10.0  # work is there, no step runs and none is committed


class Watchdog:
    """Watches one core. `silence_s` is how long it has said nothing, in this process's own unstalled time."""

    def __init__(self, core: CoreProcess, clock: StepClock, expected_rows: Callable[[], int]) -> None:
        self._core = core
        self._clock = clock
        self._expected_rows = expected_rows
        self._beat: Beat | None = None
        self._stall_s = 0.0
        self.silence_s = 0.0
        self.is_ready = False

    @property
    def step_limit_s(self) -> float:
        """Most the step in progress may take before it counts as hung."""
        return self._clock.limit_s(self._expected_rows())

    def on_beat(self, beat: Beat) -> None:
        """A sign of life."""
        old = self._beat
        self.silence_s = 0.0
        idle_stall = beat.in_step_s == 0.0 and beat.running + beat.waiting > 0
        if old is None or old.step != beat.step or not idle_stall:
            self._stall_s = 0.0
        self._beat = beat

    async def run(self) -> None:
        """Tick until the core is dead; kill it when it hangs."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while self._core.is_alive:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            own = min(now - before, 2 * TICK_S)
            before = now
            self.silence_s += own
            self._stall_s += own
            cause = self._hangs()
            if cause is not None:
                self._core.kill(cause)

    def _hangs(self) -> str | None:
        if not self.is_ready:
            limit = LOADING_SILENCE_S if self._beat is not None else 4 * LOADING_SILENCE_S
            if self.silence_s > limit or (self.silence_s > STARVED_SILENCE_S and is_stopped(self._core.pid)):
                return f"core said nothing for {self.silence_s:.1f} s while loading"
            return None
        if self.silence_s > STOPPED_SILENCE_S and (self.silence_s > STARVED_SILENCE_S or is_stopped(self._core.pid)):
            return f"core said nothing for {1000 * self.silence_s:.0f} ms"
        beat = self._beat
        if beat is None:
            return None
        limit = self.step_limit_s
        if beat.in_step_s > limit:
            return f"core has been in one step for {beat.in_step_s:.1f} s; the longest expected is {limit:.1f} s"
        if beat.running + beat.waiting > 0 and self._stall_s > IDLE_STALL_S:
            return f"core has work but started no step for {self._stall_s:.0f} s"
        return None
