"""What load workers tell their parent while they work, and what the parent makes of it for whoever watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from dsctl.bench.probe import Second


class Beat(msgspec.Struct, tag="beat"):
    """A worker's counters since the start, and the latencies of the last second (seconds)."""

    at: float = 0.0
    sent: int = 0
    ended: int = 0
    failed: int = 0
    inflight: int = 0
    events: int = 0
    cpu: float = 0.0  # of one core, in the last second
    ttfts: list[float] = []
    tpots: list[float] = []

    def count(self, is_failed: bool, events: int) -> None:
        """One request ended."""
        self.ended += 1
        self.failed += is_failed
        self.events += events


class Ended(msgspec.Struct, tag="ended"):
    """A worker's last word: when arrivals were over, and all it found out about itself."""

    at: float
    arrivals_ended: float
    seconds: list[Second]


class Began(msgspec.Struct, tag="began"):
    """The common start on the machine's monotonic clock, told by every worker."""

    worker: int
    start: float


Message = Beat | Ended | Began


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole run at one moment."""

    at: float  # seconds since the start
    total: float  # seconds until arrivals end; 0: not by time
    phase: str  # warm-up | measuring | draining
    target: float  # users, or requests per second
    sent: int
    ended: int
    failed: int
    inflight: int
    rate: float  # requests ended per second, of late
    event_rate: float  # token events per second, of late
    ttft: float | None  # median of late
    tpot: float | None
    ttfts: list[float] = field(default_factory=lambda: list[float]())  # one median a second so far
    tpots: list[float] = field(default_factory=lambda: list[float]())


class Watcher(Protocol):
    """Who looks on while a run works."""

    def say(self, text: str) -> None:
        """One line for one change of state."""

    def see(self, now: Snapshot) -> None:
        """About once a second."""


class Nobody:
    """Looks on in silence."""

    def say(self, text: str) -> None:
        """Nothing."""

    def see(self, now: Snapshot) -> None:
        """Nothing."""
