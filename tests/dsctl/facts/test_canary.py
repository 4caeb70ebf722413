"""Judging a canary: what is surely worse, what only might be, and what is as good."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.facts.canary import Evidence, Tally, Terms, bounds, judge, ratio, read_tally

TERMS = Terms(20, 1.5)
NOTHING = Tally()


def tally(
    count: int, seconds: float, *, errors: int = 0, refused: int = 0, spread: float = 0.3, seed: int = 1
) -> Tally:
    """Attempts whose first tokens take about so long."""
    chance = random.Random(seed)
    logs = [math.log(seconds) + chance.gauss(0, spread) for _ in range(count - errors - refused)]
    return Tally(count, errors, refused, len(logs), sum(logs), sum(each * each for each in logs))


def evidence(mine: Tally, others: Tally, *, has_old: bool = True) -> Evidence:
    """From clients' requests alone."""
    return Evidence(mine, others, NOTHING, NOTHING, has_old)


def test_as_good_is_let_through() -> None:
    """The same errors and times are neither bad nor in doubt."""
    found = judge(evidence(tally(40, 0.1), tally(400, 0.1, seed=2)), TERMS)
    assert (found.bad, found.doubt) == ("", "")


def test_three_times_later_is_bad_and_a_little_is_not() -> None:
    """TTFT × 3 is sure after twenty answers; within the allowed ratio it is fine."""
    assert "first token takes" in judge(evidence(tally(20, 0.3), tally(200, 0.1, seed=2)), TERMS).bad
    found = judge(evidence(tally(60, 0.11), tally(400, 0.1, seed=2)), TERMS)
    assert (found.bad, found.doubt) == ("", "")


def test_few_answers_are_a_doubt() -> None:
    """Fewer answers than wanted decide nothing, whatever they were."""
    found = judge(evidence(tally(5, 0.9), tally(5, 0.1)), TERMS)
    assert not found.bad
    assert "5 of 20" in found.doubt


@pytest.mark.parametrize("field", ["errors", "refused"])
def test_errors_and_refusals_are_compared_with_the_old_release(field: str) -> None:
    """30 % of either is bad, unless the old release has them too; one in thirty is a doubt at most."""
    bad = tally(20, 0.1, **{field: 6})
    assert judge(evidence(bad, tally(200, 0.1)), TERMS).bad
    assert not judge(evidence(bad, tally(200, 0.1, **{field: 60})), TERMS).bad
    once = judge(evidence(tally(30, 0.1, **{field: 1}), tally(200, 0.1)), TERMS)
    assert not once.bad
    assert once.doubt


def test_gate_requests_stand_in_where_clients_send_too_few() -> None:
    """Times of clients' requests and of gate requests are never mixed."""
    few, many = tally(3, 5.0), tally(400, 0.1)
    found = Evidence(few, many, tally(30, 0.1), tally(30, 0.1, seed=3))
    assert judge(found, TERMS).bad == ""
    assert ratio(found, TERMS) == pytest.approx(1.0, abs=0.3)


def test_without_old_copies_only_errors_count() -> None:
    """The only copy of a service cannot be compared with anything."""
    assert judge(evidence(tally(30, 9.0), NOTHING, has_old=False), TERMS) == judge(
        evidence(tally(30, 0.1), NOTHING, has_old=False), TERMS
    )
    assert judge(evidence(tally(30, 0.1, errors=9), NOTHING, has_old=False), TERMS).bad


def test_equal_releases_are_rarely_called_worse() -> None:
    """Of 300 canaries as good as the old release none is called bad (the test is one of three standard errors)."""
    found = [judge(evidence(tally(20, 0.1, seed=n), tally(60, 0.1, seed=n + 1000)), TERMS) for n in range(300)]
    assert not [each.bad for each in found if each.bad]


@given(st.integers(0, 400), st.integers(1, 400))
def test_bounds_hold_the_rate(hits: int, more: int) -> None:
    """A rate lies within its interval, which lies within 0 and 1."""
    low, high = bounds(hits, hits + more)
    assert 0 <= low <= hits / (hits + more) <= high <= 1


def test_a_gateway_started_again_counts_from_nothing() -> None:
    """Differences of tallies never go below what was counted since."""
    before, after = tally(50, 0.1), tally(7, 0.1)
    assert after.since(before) == after
    assert before.plus(after).since(before).attempts == 7
    assert read_tally(None) == NOTHING
