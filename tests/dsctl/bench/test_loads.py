"""The schedule: one for all workers, at the rate and of the kind that was asked for. Pure, nothing is sent."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from dsctl.base.errors import UsageError
from dsctl.bench import loads
from dsctl.bench.loads import ENDLESS, Level, Load


def _load(kind: str = "poisson", *levels: Level, **more: object) -> Load:
    return Load(kind=kind, levels=list(levels or (Level(20, 300),)), **more)  # type: ignore[arg-type]


def _gaps(load: Load, seed: int) -> list[float]:
    return [after.at - before.at for before, after in pairwise(loads.arrivals(load, seed))]


@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma", "burst"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_shares_one_schedule(kind: str, workers: int) -> None:
    """The shares of 1, 2 or 4 workers are disjoint, and together they are the schedule itself."""
    load = _load(kind, Level(5, 20), Level(30, 10), warmup=3.0, shape=0.5)
    whole = list(loads.arrivals(load, 7))
    parts = [list(loads.share(loads.arrivals(load, 7), worker, workers)) for worker in range(workers)]
    assert sorted(arrival for part in parts for arrival in part) == whole
    assert len(whole) == sum(len(part) for part in parts)
    assert loads.schedule_sha256(load, 7) == loads.schedule_sha256(load, 7)
    assert loads.schedule_sha256(load, 7) != loads.schedule_sha256(load, 8) or kind in ("constant", "burst")


@pytest.mark.parametrize("seed", range(1, 6))
def test_poisson_arrivals_pass_kolmogorov_smirnov(seed: int) -> None:
    """The gaps of a Poisson load are exponential: the KS statistic stays below its 1 % bound (seeds are fixed)."""
    gaps = sorted(_gaps(_load("poisson"), seed))
    n = len(gaps)
    cdf = [1 - math.exp(-20 * gap) for gap in gaps]
    distance = max(max((i + 1) / n - value, value - i / n) for i, value in enumerate(cdf))
    assert distance < 1.628 / math.sqrt(n)


@pytest.mark.parametrize("seed", range(1, 4))
def test_poisson_test_can_fail(seed: int) -> None:
    """The same statistic tells constant and gamma arrivals from Poisson ones."""
    for load in (_load("constant"), _load("gamma", shape=0.5)):
        gaps = sorted(_gaps(load, seed))
        n = len(gaps)
        cdf = [1 - math.exp(-20 * gap) for gap in gaps]
        distance = max(max((i + 1) / n - value, value - i / n) for i, value in enumerate(cdf))
        assert distance > 1.628 / math.sqrt(n)


@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma", "burst"])
def test_the_mean_rate_is_the_one_asked_for(kind: str) -> None:
    """Within four standard deviations of a count, whatever the kind."""
    load = _load(kind, shape=5.0)
    count = sum(1 for _ in loads.arrivals(load, 3))
    assert abs(count - 20 * 300) <= 4 * math.sqrt(20 * 300)


def test_gamma_is_as_bursty_as_it_says() -> None:
    """The coefficient of variation of gamma gaps is 1/√shape."""
    for shape in (0.25, 1.0, 4.0):
        gaps = _gaps(_load("gamma", shape=shape), 5)
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert deviation / mean == pytest.approx(1 / math.sqrt(shape), rel=0.1)


def test_bursts_come_together() -> None:
    """A burst of 10 at 20 per second: ten at once, every half second."""
    times = [arrival.at for arrival in loads.arrivals(_load("burst", Level(20, 2), shape=10.0), 1)]
    assert times == [0.0] * 10 + [0.5] * 10 + [1.0] * 10 + [1.5] * 10


def test_stages_follow_each_other_and_warm_up_belongs_to_the_first() -> None:
    """Rates change where the stages say; the warm-up runs at the first one's rate."""
    load = _load("constant", Level(10, 4), Level(50, 2), warmup=1.0)
    found = list(loads.arrivals(load, 1))
    assert [sum(a.stage == stage for a in found) for stage in (0, 1)] == [50, 100]
    assert all((a.at < 5) == (a.stage == 0) for a in found)
    assert load.spans() == [(0.0, 5.0, 10), (5.0, 7.0, 50)]
    assert load.target_at(99.0) == (1, 50)


def test_requests_limit_what_is_measured_not_what_warms_up() -> None:
    """--requests counts from the window's start on."""
    load = _load("constant", Level(10, ENDLESS), warmup=2.0, requests=30)
    assert sum(a.at >= 2.0 for a in loads.arrivals(load, 1)) == 30
    assert sum(a.at < 2.0 for a in loads.arrivals(load, 1)) == 20


def test_a_closed_load_has_no_more_workers_than_users() -> None:
    """A worker without a user would wait for ever; an open load may have any number of workers."""
    assert _load("closed", Level(8, 10), Level(3, 10)).most_workers == 3
    assert _load("closed", Level(0.4, 10)).most_workers == 1
    assert _load("poisson", Level(1, 10)).most_workers > 64


def test_a_trace_keeps_its_times() -> None:
    """Trace arrivals are the trace's own, cut at the end."""
    found = list(loads.arrivals(_load("trace", Level(1, 5)), 1, [0.0, 0.5, 4.9, 5.1]))
    assert [a.at for a in found] == [0.0, 0.5, 4.9]


@pytest.mark.parametrize("text", ["melt", "closed:2", "gamma:x", "trace:", "trace", "gamma:0"])
def test_a_load_that_does_not_exist_is_refused(text: str) -> None:
    """The error names the kinds there are."""
    with pytest.raises(UsageError) as caught:
        loads.parse_kind(text)
    assert "poisson" in caught.value.hint


@pytest.mark.parametrize("text", ["", "5", "5@", "5@0s", "0@5s", "5@30s,", "x@3s"])
def test_stages_that_are_none_are_refused(text: str) -> None:
    """The error shows how they are written."""
    with pytest.raises(UsageError):
        loads.parse_stages(text)


def test_stages_may_stand_in_a_file(tmp_path: Path) -> None:
    """A stage a line, with comments; a path that is none is refused with how stages are written."""
    (tmp_path / "ramp").write_text("# up\n5@30s\n\n10@1m  # twice\n")
    assert loads.parse_stages(str(tmp_path / "ramp")) == [Level(5, 30), Level(10, 60)]
    with pytest.raises(UsageError) as caught:
        loads.parse_stages(str(tmp_path / "none"))
    assert "5@30s" in caught.value.hint


def test_times_are_read_as_they_are_written() -> None:
    """Units of time, and a refusal of what is none."""
    assert [loads.parse_seconds(text) for text in ("500ms", "30s", "2m", "1h", "7")] == [0.5, 30.0, 120.0, 3600.0, 7.0]
    with pytest.raises(UsageError):
        loads.parse_seconds("soon")
