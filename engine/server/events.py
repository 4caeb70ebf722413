"""What a running request reports, in order, to whoever writes its answer."""

from __future__ import annotations

from dataclasses import dataclass

from engine.server.choice import Piece
from engine.spec.attempt import Failure, Lost, Usage
from engine.wire.messages import Top


@dataclass(frozen=True, slots=True)
class Ticket:
    """What identifies one attempt at one request; constant from its first byte to its last."""

    id: str
    created: int
    seed: int
    attempt: int = 1
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """The first event of a choice: what is known before its first token."""

    choice: int
    prompt_ids: list[int]
    prompt_text: str  # "" unless it is to be echoed
    prompt_tops: list[Top | None] | None


@dataclass(frozen=True, slots=True)
class Done:
    """Every choice has ended."""

    usage: Usage


Event = Opening | Piece | Lost | Failure | Done
