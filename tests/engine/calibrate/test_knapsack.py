"""The chosen formats are the best there are: against every combination, at every kind of limit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calibrate.knapsack import Choice, solve

_choice = st.builds(Choice, st.integers(0, 60).map(float), st.integers(0, 50).map(float))
_units = st.lists(st.lists(_choice, min_size=1, max_size=3), min_size=1, max_size=5)


@given(_units, st.integers(0, 250))
def test_the_least_loss_within_the_limit(units: list[list[Choice]], limit: int) -> None:
    """Never over the limit; as good as brute force up to the rounding of costs, and None exactly when nothing fits."""
    every = list(itertools.product(*(range(len(unit)) for unit in units)))

    def cost(picked: tuple[int, ...]) -> float:
        return sum(unit[i].cost for unit, i in zip(units, picked, strict=True))

    def loss(picked: tuple[int, ...]) -> float:
        return sum(unit[i].loss for unit, i in zip(units, picked, strict=True))

    found = solve(units, float(limit))
    fitting = [picked for picked in every if cost(picked) <= limit]
    if found is None:
        assert not fitting
        return
    assert cost(tuple(found)) <= limit
    tight = [picked for picked in every if cost(picked) <= limit - limit * len(units) / 8192]
    assert loss(tuple(found)) <= min([loss(picked) for picked in tight], default=float("inf"))


def test_the_smallest_fits_exactly() -> None:
    """A limit that only the cheapest choices meet is met; one byte less is not."""
    units = [[Choice(1e9 + 1, 0.0), Choice(3.0, 5.0)], [Choice(7.0, 1.0), Choice(8.0, 0.5)]]
    assert solve(units, 10.0) == [1, 0]
    assert solve(units, 9.0) is None
    assert solve(units, 2e9) == [0, 1]


@pytest.mark.parametrize("limit", [0.0, 1e-6, 1e-3, 1.0])
def test_losses_as_the_limit(limit: float) -> None:
    """The other way round: fewest bytes within so much loss, small numbers included."""
    units = [[Choice(0.0, 100.0), Choice(3e-4, 50.0)], [Choice(0.0, 100.0), Choice(2e-6, 60.0)]]
    found = solve(units, limit)
    assert found == {0.0: [0, 0], 1e-6: [0, 0], 1e-3: [1, 1], 1.0: [1, 1]}[limit]
