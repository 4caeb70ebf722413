"""Health by forward progress: what silence, steps and broken connections say about one replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from dsctl.gateway.events import ProgressLine
from dsctl.gateway.settings import DEAD_TICKS, HUNG_TICKS, SUSPECT_TICKS, TICK_S

State = Literal["starting", "healthy", "suspect", "dead"]
GOOD_PROBES = 2
QUARANTINE_TICKS = 100  # a hung replica that shows no step may be tried again after 5 s
LONGEST_STEP_FACTOR = 10  # a replica whose steps are long is given this many times its longest
HUNG_CAP_TICKS = 600
TOLD_CAP_TICKS = 6000  # five minutes, whatever a replica says


class Health:
    """The state machine of one replica.

    starting → healthy after two good probes; healthy → suspect on 350 ms of silence or a broken connection → healthy on
    the next probe; any → dead on 550 ms of silence, a refused connection or 2 s without a step; dead → healthy after
    two good probes. `silent` is in ticks of the gateway's own clock and is reset by any byte of the replica.
    """

    def __init__(self, on_change: Callable[[State, str], None]) -> None:
        self.state: State = "starting"
        self.cause = "not heard from yet"
        self.silent = 0
        self.progress: ProgressLine | None = None
        self._on_change = on_change
        self._good = 0
        self._stuck = 0
        self._longest = 0
        self._quarantine = 0

    @property
    def is_ready(self) -> bool:
        """May take work now."""
        return self.state == "healthy" and self.progress is not None and self.progress.state == "ready"

    def heard(self, line: ProgressLine) -> None:
        """A line of the progress stream came."""
        before, self.progress = self.progress, line
        self.silent = 0
        moved = before is None or line.epoch != before.epoch or line.step != before.step
        if moved:
            self._longest = max(self._longest, self._stuck)
            self._quarantine = 0
        if moved or line.running == 0 or line.state != "ready":
            self._stuck = 0
        if self._quarantine:
            return
        self._good += 1
        if self.state == "suspect" or (self.state in ("starting", "dead") and self._good >= GOOD_PROBES):
            self._enter("healthy", "progress heard")
        elif self.state == "healthy" and before is not None and line.state != before.state:
            self._on_change(self.state, f"the core is {line.state}")

    def tick(self) -> None:
        """50 ms of the gateway's own time passed."""
        self.silent += 1
        self._quarantine = max(0, self._quarantine - 1)
        if self.silent >= DEAD_TICKS:
            self._bury("silent")
        elif self.silent >= SUSPECT_TICKS and self.state == "healthy":
            self._enter("suspect", "silent")
        line = self.progress
        if line is not None and line.running > 0 and line.state == "ready" and self.state != "dead":
            self._stuck += 1
            learned = min(HUNG_CAP_TICKS, LONGEST_STEP_FACTOR * self._longest)
            # What a replica says of its own steps counts: it knows their size, and ends a core that takes longer.
            told = min(TOLD_CAP_TICKS, HUNG_TICKS + int(line.step_limit_s / TICK_S))
            limit = max(HUNG_TICKS, learned, told)
            if self._stuck > limit:
                self._stuck = 0
                self._quarantine = QUARANTINE_TICKS
                self._bury("no step while requests run")

    def doubt(self, cause: str) -> None:
        """A connection broke: no new work until the next probe."""
        if self.state == "healthy":
            self._enter("suspect", cause)

    def refused(self, cause: str) -> None:
        """A connection was refused: nobody is there, and who comes next starts afresh."""
        self._quarantine = 0
        self._bury(cause)

    def _bury(self, cause: str) -> None:
        self._good = 0
        self._stuck = 0
        if self.state == "starting":
            self.cause = cause
        elif self.state != "dead":
            self._enter("dead", cause)

    def _enter(self, state: State, cause: str) -> None:
        self.state = state
        self.cause = cause
        self._on_change(state, cause)
