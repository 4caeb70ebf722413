"""Percentiles, intervals and slopes against numpy, tables and hand arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.bench import statistics

FINITE = st.floats(0, 1e6, allow_nan=False, width=32)


@given(st.lists(FINITE, min_size=20, max_size=300), st.sampled_from(sorted(statistics.PERCENTILES)))
def test_a_percentile_is_numpys_inverted_cdf(values: list[float], name: str) -> None:
    """Bit-equal to numpy's inverted CDF wherever it is shown, and shown exactly from n = 10 / (1 − p) on."""
    mille = statistics.PERCENTILES[name]
    found = statistics.percentile(statistics.ordered(values), mille)
    if len(values) * (1000 - mille) < 10_000:
        assert found is None
    else:
        assert found == np.percentile(np.asarray(values), mille / 10, method="inverted_cdf")


@pytest.mark.parametrize("mille", statistics.PERCENTILES.values())
def test_the_rank_never_slips_by_one(mille: int) -> None:
    """For every n up to 5 000 the rank is the least one with at least p of the sample at or below it."""
    for n in range(1, 5000):
        place = statistics.rank(n, mille)
        assert (place + 1) * 1000 >= n * mille
        assert place == 0 or place * 1000 < n * mille


def test_the_samples_a_percentile_needs() -> None:
    """p50 from 20, p90 from 100, p95 from 200, p99 from 1 000, p99.9 from 10 000 samples on."""
    assert [statistics.needed(m) for m in statistics.PERCENTILES.values()] == [20, 100, 200, 1000, 10_000]
    thousand = statistics.ordered([float(i) for i in range(1000)])
    assert statistics.percentile(thousand, 990) == 989.0
    assert statistics.percentile(thousand[:-1], 990) is None


@given(st.lists(FINITE, min_size=20, max_size=100), st.integers(0, 60))
def test_lost_requests_only_ever_raise_a_percentile(values: list[float], lost: int) -> None:
    """Counting failures as +∞ never lowers a percentile, and enough of them make it +∞."""
    before = statistics.percentile(statistics.ordered(values), 500)
    after = statistics.percentile(statistics.ordered(values, lost), 500)
    assert before is not None
    assert after is not None
    assert after >= before
    assert (after == math.inf) == (lost > len(values))


@given(st.lists(FINITE, min_size=20, max_size=200), st.randoms(use_true_random=False))
def test_order_does_not_matter(values: list[float], random: object) -> None:
    """Shuffled or merged in another order, the same values give the same percentile and interval."""
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = statistics.ordered(values), statistics.ordered(shuffled)
    assert statistics.percentile(one, 500) == statistics.percentile(other, 500)
    assert statistics.percentile_interval(one, 500) == statistics.percentile_interval(other, 500)


def test_wilson_by_hand() -> None:
    """8 of 10 at 95 %: 0.490 – 0.943 (the textbook's example)."""
    low, high = statistics.wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert statistics.wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(pair: tuple[int, int]) -> None:
    """The interval holds the share, stays in [0, 1], mirrors, and narrows with more requests."""
    good, total = pair
    low, high = statistics.wilson(good, total)
    assert 0 <= low <= good / total <= high <= 1
    assert statistics.wilson(total - good, total) == pytest.approx((1 - high, 1 - low))
    more = statistics.wilson(good * 4, total * 4)
    assert more[1] - more[0] < high - low


@pytest.mark.parametrize(
    ("p", "freedom", "table"),
    [(0.975, 4, 2.776), (0.995, 4, 4.604), (0.975, 1, 12.706), (0.95, 30, 1.697), (0.975, 1e6, 1.960)],
)
def test_students_quantile_is_the_tables(p: float, freedom: float, table: float) -> None:
    """Student's quantile equals the printed tables to their three digits."""
    assert statistics.t_quantile(p, freedom) == pytest.approx(table, abs=6e-4)


def test_the_interval_of_a_percentile_covers_it() -> None:
    """Of 400 samples from a known distribution, the 95 % interval of p90 holds the true value 92 to 98 times in 100."""
    rng = np.random.default_rng(5)
    truth = -math.log(0.1)
    held = 0
    for _ in range(400):
        interval = statistics.percentile_interval(statistics.ordered(rng.exponential(1.0, 500)), 900)
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_a_slope_and_its_doubt() -> None:
    """A line's rise is found exactly; noise around a flat line does not rise; three points are the least."""
    exact = statistics.slope([0, 1, 2, 3], [1, 3, 5, 7])
    assert exact is not None
    assert exact.value == pytest.approx(2.0)
    assert exact.rises
    flat = statistics.slope([0, 1, 2, 3, 4, 5], [1, -1, 1, -1, 1, -1])
    assert flat is not None
    assert not flat.rises
    assert statistics.slope([0, 1], [0, 1]) is None
    assert statistics.slope([1, 1, 1], [0, 1, 2]) is None


def test_the_interval_of_a_mean_by_hand() -> None:
    """1, 2, 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.303."""
    interval = statistics.mean_interval(np.asarray([1.0, 2.0, 3.0]))
    assert interval == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    assert statistics.mean_interval(np.asarray([1.0])) is None
