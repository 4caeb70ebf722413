"""What the first rank of a core tells the others, and what they answer."""

from __future__ import annotations

import zlib

import msgspec

from engine.spec.config import EngineConfig


class Join(msgspec.Struct, frozen=True, tag="join"):
    """First order to a rank: where the ranks meet."""

    rank: int
    world: int
    host: str
    port: int  # of the store that rank 0 keeps
    timeout_s: float  # longest any collective may wait
    threads: int


class LoadPart(msgspec.Struct, frozen=True, tag="load"):
    """Load this rank's part; answered by Loaded."""

    config: EngineConfig


class NewCache(msgspec.Struct, frozen=True, tag="cache"):
    """An empty cache under a number; the one that had it is dropped."""

    number: int
    num_blocks: int
    block_size: int


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """Compute one step together; arrays are int64, little-endian."""

    step: int  # counted by rank 0; a rank that expects another number has lost one
    cache: int
    is_short: bool  # on one layer of each kind only, for the self-check
    token_ids: bytes
    positions: bytes
    slots: bytes
    rows: bytes
    segments: list[tuple[int, int, int, bool, bytes]]  # start, length, position, generated, block table
    crc: int

    def checksum(self) -> int:
        """CRC-32 of everything but itself."""
        found = zlib.crc32(b"%d:%d:%d" % (self.step, self.cache, self.is_short))
        for data in (self.token_ids, self.positions, self.slots, self.rows):
            found = zlib.crc32(data, found)
        for start, length, position, generated, table in self.segments:
            found = zlib.crc32(b"%d:%d:%d:%d" % (start, length, position, generated), found)
            found = zlib.crc32(table, found)
        return found


Order = Join | LoadPart | NewCache | Forward


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The part is there, or why it is not."""

    error: str = ""
    kind: str = ""  # name of the error's class
    exit_code: int = 0


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """Every 50 ms: the rank lives."""

    step: int  # last one computed


Answer = Loaded | Pulse
