"""The events of a replica's stream as the gateway reads them: a Meta line each, and data it does not look into."""

from __future__ import annotations

import msgspec

from engine.spec.attempt import Failure, Lost, Usage


class MetaLine(msgspec.Struct, frozen=True):
    """See engine.spec.attempt.Meta; a struct because this is decoded once per token."""

    c: int = -1
    t: tuple[int, ...] = ()
    f: str | None = None
    cached: int | None = None
    lost: Lost | None = None
    end: Usage | None = None
    error: Failure | None = None


class ProgressLine(msgspec.Struct, frozen=True):
    """See engine.spec.attempt.Progress."""

    state: str
    epoch: int
    step: int
    beat: int
    running: int
    waiting: int
    kv_free_tokens: int
    kv_total_tokens: int
    restarts: int
    numerics_id: str
    exact: bool
    silent_ms: int = 0
    step_limit_s: float = 0.0


decode_meta = msgspec.json.Decoder(MetaLine).decode
decode_progress = msgspec.json.Decoder(ProgressLine).decode


MAX_CHOICES = 1024  # prompts × n of one request; a replica that speaks of more is not believed


class History:
    """What the client has (or is about to have) of a request: what a continuation must carry.

    How many choices there are is the replica's business (prompts × n), so a choice exists once it is heard of.
    """

    __slots__ = ("cached", "finished", "ids", "tokens")

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.finished: list[str | None] = []
        self.cached: int | None = None
        self.tokens = 0

    @property
    def started(self) -> bool:
        """Some token or ending was delivered."""
        return self.tokens > 0 or any(self.finished)

    def accepts(self, meta: MetaLine) -> bool:
        """False when an event cannot be true: its choice cannot exist or has ended."""
        choice = meta.c
        if choice >= len(self.ids):
            return choice < MAX_CHOICES
        return choice >= 0 and self.finished[choice] is None

    def add(self, meta: MetaLine) -> None:
        """Take one event's ids; it must be acceptable."""
        choice = meta.c
        while choice >= len(self.ids):
            self.ids.append([])
            self.finished.append(None)
        self.ids[choice].extend(meta.t)
        self.tokens += len(meta.t)
        if meta.f is not None:
            self.finished[choice] = meta.f
        if meta.cached is not None and self.cached is None:
            self.cached = meta.cached

    def resume(self) -> bytes:
        """engine.spec.attempt.Resume as JSON."""
        choices = [{"index": index, "ids": ids, "finished": self.finished[index]} for index, ids in enumerate(self.ids)]
        return msgspec.json.encode(
            {"choices": choices, "cached_tokens": self.cached, "prompt_sent": True, "role_sent": True}
        )
