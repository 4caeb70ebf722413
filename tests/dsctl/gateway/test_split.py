"""The share of a canary: exact at every length, never at the cost of a request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.gateway.replica import Replica
from dsctl.gateway.split import divide, due
from dsctl.gateway.table import Row, read_table


def replica(name: str, share: float = 0.0) -> Replica:
    """One row's runtime state."""
    return Replica(Row(name, "http://127.0.0.1:1", share=share), lambda: None)


@given(st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]), st.integers(1, 2000))
def test_the_share_is_exact_at_every_length(share: float, count: int) -> None:
    """After n requests the canary has n × share of them, less than one more or fewer, however n was chosen."""
    canary = replica("r4", share)
    for _ in range(count):
        due([canary])
    assert canary.split.offered == count
    assert abs(canary.split.taken - count * share) <= 1


def test_requests_are_evenly_spaced() -> None:
    """At a tenth, any 30 requests in a row hold 2 to 4 of the canary's."""
    canary = replica("r4", 0.1)
    taken = [due([canary]) is canary for _ in range(500)]
    assert all(2 <= sum(taken[at : at + 30]) <= 4 for at in range(470))


def test_a_shunned_canary_is_owed_nothing() -> None:
    """While its breaker is open nothing is offered, and afterwards it does not get all that at once."""
    canary = replica("r4", 0.5)
    for _ in range(3):
        canary.breaker.wrong()
    assert [due([canary]) for _ in range(50)] == [None] * 50
    assert canary.split.offered == 0


def test_without_a_canary_nothing_changes() -> None:
    """Replicas without a share are all others."""
    ready = [replica("r1"), replica("r2")]
    assert divide(ready) == ([], ready)


@pytest.mark.parametrize("share", [-0.1, 1.0, 7])
def test_a_share_is_a_part(share: float) -> None:
    """The table refuses a share that is no part of the requests."""
    told = {"generation": 1, "replicas": [{"name": "r1", "url": "http://127.0.0.1:1", "share": share}]}
    with pytest.raises(ValueError, match="share"):
        read_table(json.dumps(told).encode())
