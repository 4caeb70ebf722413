"""What one gateway is told at its start, and the bounds it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TICK_S = 0.05  # the gateway's own clock: silence is counted in these
SESSION_TICKS = 4  # sessions are looked at every so many ticks
SUSPECT_TICKS = 7  # 350 ms of silence: no new work
DEAD_TICKS = 11  # 550 ms of silence: streams move
HUNG_TICKS = 40  # 2 s without a step while something runs
QUIET_HEAD_S = 5.0  # a live replica that does not begin to answer
QUIET_STREAM_S = 2.0  # a live replica's stream without a byte (heartbeats come every 200 ms)
CONNECT_S = 1.0
MAX_LINE = 1 << 20  # bytes of one event of a replica
PAUSE_BYTES = 256 << 10  # unsent bytes of one stream at which its replica is no longer read
HEARTBEAT_S = 2.0  # an SSE client that waited this long gets a comment, and again
FRUITLESS_LIMIT = 4  # attempts in a row that brought no token
NUMERICS_PATIENCE_S = 5.0  # wait this long for a replica of equal numerics_id before taking another


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the gateway listens, what it reads, and how much it lets in."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    names: frozenset[str] = frozenset()  # further Host names it answers to
    no_auth: bool = False
    ledger: Path | None = None
    max_inflight: int = 4096
    max_held: int = 1024
    max_body: int = 8 << 20
    max_bodies: int = 512 << 20  # bytes of all bodies kept at a time
    hold_s: float = 60.0
    write_deadline_s: float = 30.0
    body_deadline_s: float = 30.0
    head_deadline_s: float = 15.0
    shutdown_s: float = 18.0
