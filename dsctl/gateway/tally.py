"""What became of the attempts on one replica, as sums that can be subtracted: whoever judges a canary reads them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dsctl.gateway.attempt import Ending

SHORTEST_S = 1e-4  # below the clock's meaning; keeps the logarithm finite


class Tally(msgspec.Struct):
    """Attempts that ended and how, and the times to their first token (n, sum and sum of squares of ln seconds)."""

    attempts: int = 0
    errors: int = 0  # wrong answers, broken streams, deaths
    refused: int = 0  # 4xx of the replica
    ttft_n: int = 0
    ttft_sum: float = 0.0
    ttft_squares: float = 0.0

    def first_token(self, seconds: float) -> None:
        """A fresh attempt brought its first token."""
        value = math.log(max(SHORTEST_S, seconds))
        self.ttft_n += 1
        self.ttft_sum += value
        self.ttft_squares += value * value

    def ended(self, ending: Ending) -> None:
        """An attempt ended; being too busy for it says nothing about a replica."""
        if ending.kind in ("busy", "stale"):
            return
        self.attempts += 1
        self.errors += ending.kind in ("broken", "failed")
        self.refused += ending.kind == "refused"
