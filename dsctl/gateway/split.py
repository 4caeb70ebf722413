"""Which requests begin on a canary: exactly its share of them, evenly spaced, by counting instead of by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsctl.gateway.replica import Replica


class Split:
    """The account of one canary: after n offered requests it has taken n × share of them, give or take one."""

    __slots__ = ("offered", "owed", "taken")

    def __init__(self) -> None:
        self.offered = 0  # requests that could have begun here
        self.taken = 0
        self.owed = 0.0

    def offer(self, share: float) -> float:
        """One more request; how many it is owed now."""
        self.offered += 1
        self.owed += share
        return self.owed

    def take(self) -> None:
        """It gets this one."""
        self.taken += 1
        self.owed -= 1


def divide(ready: Sequence[Replica]) -> tuple[list[Replica], list[Replica]]:
    """Canaries, and the others."""
    canaries = [replica for replica in ready if replica.row.share > 0]
    return canaries, [replica for replica in ready if replica.row.share <= 0] if canaries else list(ready)


def due(canaries: Sequence[Replica]) -> Replica | None:
    """The canary whose turn it is, if it is one's. One that is shunned is offered nothing, and so owed nothing."""
    best: Replica | None = None
    for replica in canaries:
        if replica.breaker.is_open:
            continue
        owed = replica.split.offer(replica.row.share)
        if owed >= 1 and (best is None or owed > best.split.owed):
            best = replica
    if best is not None:
        best.split.take()
    return best
