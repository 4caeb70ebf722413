"""What gateways counted of a canary and of the release before it, and whether the difference is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SURE = 2.58  # standard errors: 99 % of a normal distribution lies within
SURE_FEW = 3.0  # the same for means of few samples
ALLOWED = 0.02  # errors more than the old release has, as a part of all attempts, that count as chance


@dataclass(frozen=True, slots=True)
class Tally:
    """Attempts on some replicas: how they ended; ln of the seconds to their first tokens as n, sum, sum of squares."""

    attempts: int = 0
    errors: int = 0
    refused: int = 0
    ttft_n: int = 0
    ttft_sum: float = 0.0
    ttft_squares: float = 0.0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.attempts + other.attempts, self.errors + other.errors, self.refused + other.refused,
            self.ttft_n + other.ttft_n, self.ttft_sum + other.ttft_sum, self.ttft_squares + other.ttft_squares,
        )  # fmt: skip

    def since(self, before: Tally) -> Tally:
        """What came after `before`; a gateway that was started again counts from nothing."""
        if self.attempts < before.attempts or self.ttft_n < before.ttft_n:
            return self
        return Tally(
            self.attempts - before.attempts, self.errors - before.errors, self.refused - before.refused,
            self.ttft_n - before.ttft_n, self.ttft_sum - before.ttft_sum, self.ttft_squares - before.ttft_squares,
        )  # fmt: skip

    @property
    def mean(self) -> float:
        """Of ln seconds."""
        return self.ttft_sum / self.ttft_n if self.ttft_n else 0.0

    @property
    def variance(self) -> float:
        """Of ln seconds, of the sample."""
        if self.ttft_n < 2:
            return 0.0
        return max(0.0, (self.ttft_squares - self.ttft_sum * self.mean) / (self.ttft_n - 1))


@dataclass(frozen=True, slots=True)
class Terms:
    """What a canary has to show."""

    wanted: int  # answers, of it and of the old release, before their times are compared
    ttft_ratio: float  # how many times longer the first token may take


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was counted while the canary stood: of clients' requests and of the control path's own, on either side."""

    real: Tally
    real_old: Tally
    gates: Tally
    gates_old: Tally
    has_old: bool = True  # there are copies of the old release to compare with


@dataclass(frozen=True, slots=True)
class Judgement:
    """`bad`: it must go, and why; `doubt`: it cannot be let through yet, and why; both empty: it is as good."""

    bad: str = ""
    doubt: str = ""


def read_tally(told: Mapping[str, Any] | None) -> Tally:
    """A tally of /-/status; what is not told counts as nothing."""
    given = told or {}
    return Tally(
        *(int(given.get(key, 0)) for key in ("attempts", "errors", "refused", "ttft_n")),
        *(float(given.get(key, 0.0)) for key in ("ttft_sum", "ttft_squares")),
    )


def total(tallies: Sequence[Tally]) -> Tally:
    """All together."""
    whole = Tally()
    for each in tallies:
        whole = whole.plus(each)
    return whole


def bounds(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval for a rate: between which rates the true one lies, with 99 % confidence."""
    if not of:
        return 0.0, 1.0
    rate, square = hits / of, SURE * SURE
    middle = (rate + square / (2 * of)) / (1 + square / of)
    spread = SURE * math.sqrt(rate * (1 - rate) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def judge(evidence: Evidence, terms: Terms) -> Judgement:
    """Errors, refusals and the time to the first token, in this order."""
    mine, others = evidence.real.plus(evidence.gates), evidence.real_old.plus(evidence.gates_old)
    doubt = ""
    for what, hits, before in (("errors", mine.errors, others.errors), ("refusals", mine.refused, others.refused)):
        limit = (before / others.attempts if others.attempts else 0.0) + ALLOWED
        if bounds(hits, mine.attempts)[0] > limit:
            return Judgement(
                f"{hits} {what} in {mine.attempts} requests; the old release: {before} in {others.attempts}"
            )
        if mine.attempts and hits / mine.attempts > limit:
            doubt = doubt or f"{hits} {what} in {mine.attempts} requests"
    if mine.attempts < terms.wanted:
        doubt = doubt or f"{mine.attempts} of {terms.wanted} requests have ended"
    slow = _judge_times(evidence, terms) if evidence.has_old else Judgement()
    return slow if slow.bad else Judgement("", doubt or slow.doubt)


def ratio(evidence: Evidence, terms: Terms) -> float:
    """How many times longer its first tokens take (geometric means); 0 when one side has none."""
    mine, others = _compared(evidence, terms)
    return math.exp(mine.mean - others.mean) if mine.ttft_n and others.ttft_n else 0.0


def _compared(evidence: Evidence, terms: Terms) -> tuple[Tally, Tally]:
    """Clients' requests where there are enough of them; else gate requests, which are the same on both sides."""
    if min(evidence.real.ttft_n, evidence.real_old.ttft_n) >= terms.wanted:
        return evidence.real, evidence.real_old
    return evidence.gates, evidence.gates_old


def _judge_times(evidence: Evidence, terms: Terms) -> Judgement:
    mine, others = _compared(evidence, terms)
    if min(mine.ttft_n, others.ttft_n) < max(2, terms.wanted):
        return Judgement("", f"{mine.ttft_n} of {terms.wanted} first tokens were timed")
    error = math.sqrt(mine.variance / mine.ttft_n + others.variance / others.ttft_n)
    longer = mine.mean - others.mean - math.log(terms.ttft_ratio)
    told = (
        f"its first token takes {math.exp(mine.mean - others.mean):.2f} times as long as the old release's "
        f"({math.exp(mine.mean):.3g} s over {mine.ttft_n}, {math.exp(others.mean):.3g} s over {others.ttft_n} "
        f"requests; {terms.ttft_ratio:g} times is allowed)"
    )
    if longer - SURE_FEW * error > 0:
        return Judgement(told)
    return Judgement("", told if longer > 0 else "")
