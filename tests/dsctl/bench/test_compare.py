"""Comparisons on resampled records: no false alarms between equals, none missed at +10 %, and words for the rest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dsctl.base.errors import InvalidError, UsageError
from dsctl.bench import compare, slo
from dsctl.bench.records import Record
from dsctl.bench.runs import Run
from tests.dsctl.bench import examples

GATES = {"ttft_p99": 0.05, "tpot_p50": 0.03, "tpot_p99": 0.05}
TRIES = 200


def _pool(factor: float, seed: int = 7) -> list[Record]:
    return examples.lognormal(np.random.default_rng(seed), 6000, factor=factor, tokens=4)


def _run(rows: list[Record], facts: object = None) -> Run:
    told = examples.facts()
    return Run(Path("run"), {}, told, tuple(rows))


def _side(pool: list[Record], rng: np.random.Generator, runs: int = 3) -> list[Run]:
    return [_run([pool[i] for i in rng.integers(0, len(pool), 1000)]) for _ in range(runs)]


def _words(a: list[Record], b: list[Record], gates: dict[str, float], tries: int = TRIES) -> list[dict[str, str]]:
    """The words of `tries` comparisons of 3 × 1 000 resampled requests a side."""
    rng = np.random.default_rng(11)
    found: list[dict[str, str]] = []
    for _ in range(tries):
        told = compare.compare(_side(a, rng), _side(b, rng), gates=gates, shown=())
        found.append({effect.name: effect.word for effect in told.effects})
    return found


def test_equals_are_rarely_called_different() -> None:
    """A/A: of 200 comparisons at most 2·alpha say worse for any metric, even with a threshold of nothing."""
    pool = _pool(1.0)
    words = _words(pool, pool, dict.fromkeys(GATES, 0.0))
    assert sum("worse" in told.values() for told in words) <= 2 * compare.DEFAULT_ALPHA * TRIES
    assert sum("improved" in told.values() for told in words) <= 2 * compare.DEFAULT_ALPHA * TRIES


def test_ten_per_cent_more_tpot_is_found() -> None:
    """A/B with +10 % TPOT: found by tpot_p50 in at least 95 of 100 comparisons, and +1 % never (it is below 3 %)."""
    pool = _pool(1.0)
    found = _words(pool, _pool(1.1), GATES, 100)
    assert sum(told["tpot_p50"] == "worse" for told in found) >= 95
    small = _words(pool, _pool(1.01), GATES, 100)
    assert not any(told["tpot_p50"] == "worse" or told["tpot_p99"] == "worse" for told in small)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.02, 0.05])
def test_runs_that_differ_by_the_day_raise_no_alarm(spread: float) -> None:
    """A/A where each run has its own pace beside its requests' noise of 1 %: false alarms stay below 2·alpha."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(1000):
        sides = [
            [compare.Measured(math.exp(rng.normal(0, spread) + rng.normal(0, 0.01)), 0.01) for _ in range(3)]
            for _ in range(2)
        ]
        difference, error, freedom = compare._difference(*sides, as_ratio=True)
        quantile = compare.statistics.t_quantile(1 - compare.DEFAULT_ALPHA / 2, freedom)
        alarms += abs(difference) > quantile * error
    assert alarms <= 2 * compare.DEFAULT_ALPHA * 1000


@pytest.mark.parametrize("mille", [500, 900, 990])
def test_the_bootstrap_without_resampling_is_the_bootstrap(mille: int) -> None:
    """The standard error from Beta draws equals that of really resampling, to the noise of 2 000 draws."""
    rng = np.random.default_rng(2)
    values = np.sort(rng.lognormal(0, 0.3, 1000))
    quick = compare.bootstrap_error(values, mille, rng)
    place = compare.statistics.rank(1000, mille)
    real = [float(np.partition(rng.choice(values, 1000), place)[place]) for _ in range(2000)]
    assert quick == pytest.approx(float(np.log(real).std(ddof=1)), rel=0.08)


def _rows(n: int, *, ttft: float = 0.2, pace: float = 0.02, bad: int = 0) -> list[Record]:
    rng = np.random.default_rng(4)
    rows = [
        examples.record(
            i, i * 59.0 / n, ttft=ttft * float(rng.uniform(0.9, 1.1)), itl=[pace * float(rng.uniform(0.9, 1.1))] * 3
        )
        for i in range(n - bad)
    ]
    return rows + [examples.failure(n - bad + i, i * 0.01) for i in range(bad)]


def test_better_is_said_too_and_throughput_counts_upwards() -> None:
    """Less latency is improved, fewer requests per second are worse."""
    told = compare.compare([_run(_rows(600))] * 3, [_run(_rows(300, ttft=0.1))] * 3)
    words = {effect.name: effect.word for effect in told.effects}
    assert words["ttft_p50"] == "improved"
    assert words["tpot_p50"] == "unchanged"
    assert words["requests_per_s"] == "worse"
    assert words["ttft_p99"] == "n/a"
    assert not told.regressions
    assert not told.notes


def test_few_requests_are_inconclusive_and_say_what_they_could_show() -> None:
    """Sixty noisy requests cannot tell 5 %; the words hold the least change they would have shown."""
    rng = np.random.default_rng(8)
    sides = [[_run(examples.lognormal(rng, 60, cv=0.6)) for _ in range(3)] for _ in range(2)]
    told = compare.compare(*sides, gates={"ttft_p50": 0.05})
    effect = told.effects[0]
    assert effect.word == "inconclusive"
    assert effect.detectable is not None
    assert effect.detectable > 0.05
    assert "show changes from" in effect.words
    assert [one.name for one in told.undecided] == ["ttft_p50"]


def test_the_minimum_detectable_effect_is_detected() -> None:
    """An effect of the size said to be detectable with 80 % power is found about that often (70 to 90 %)."""
    rng = np.random.default_rng(6)

    def once(shift: float) -> tuple[float, float, float]:
        sides = [[compare.Measured(math.exp(s + rng.normal(0, 0.02)), 0.02) for _ in range(3)] for s in (0.0, shift)]
        return compare._difference(*sides, as_ratio=True)

    def quantile(p: float, freedom: float) -> float:
        return compare.statistics.t_quantile(p, freedom)

    least = [(quantile(0.995, freedom) + quantile(compare.POWER, freedom)) * error
             for _, error, freedom in (once(0.0) for _ in range(300))]  # fmt: skip
    size = float(np.mean(least))
    found = [change > quantile(0.995, freedom) * error for change, error, freedom in (once(size) for _ in range(300))]
    assert 0.7 <= sum(found) / 300 <= 0.9


def test_failures_cannot_improve_a_percentile() -> None:
    """A server that drops a tenth of its requests has an unbounded p99 and is worse, though the rest were faster."""
    a = [_run(_rows(1200))] * 3
    b = [_run(_rows(1200, ttft=0.1, bad=120))] * 3
    told = compare.compare(a, b, gates={"ttft_p99": 0.05, "error_rate": 0.01})
    assert {effect.name for effect in told.regressions} == {"ttft_p99", "error_rate"}
    assert "unbounded in B" in told.regressions[0].words


def test_a_gate_without_samples_is_invalid_not_passed() -> None:
    """A p99 of 300 requests cannot be compared: an error that names the run and the number it needs."""
    with pytest.raises(InvalidError) as caught:
        compare.compare([_run(_rows(300))], [_run(_rows(300))], gates={"ttft_p99": 0.05})
    assert "needs 1000" in caught.value.why


def test_single_runs_are_compared_with_a_warning() -> None:
    """One run a side: compared by its requests, and the note says that the days' difference is unknown."""
    told = compare.compare([_run(_rows(600))], [_run(_rows(600, pace=0.03))], gates={"tpot_p50": 0.03})
    assert told.regressions
    assert "--repeat 3" in told.notes[0]


def test_goodput_is_compared_when_there_are_limits() -> None:
    """With limits, goodput is a metric like any other, and fewer good requests are worse."""
    told = compare.compare(
        [_run(_rows(600))] * 3,
        [_run(_rows(600, pace=0.0222))] * 3,
        gates={"goodput": 0.03},
        objectives=slo.parse("tpot=22ms"),
    )
    assert [effect.name for effect in told.regressions] == ["goodput"]


@pytest.mark.parametrize("text", ["", "ttft=5%", "tpot_p42=5%", "ttft_p99", "ttft_p99=fast", "nonsense=1%"])
def test_bad_limits_are_refused(text: str) -> None:
    """What --max-regression cannot mean is a usage error that says what it could."""
    with pytest.raises(UsageError) as caught:
        compare.limits(text)
    assert caught.value.hint


def test_limits_are_shares_whatever_their_sign() -> None:
    """5 %, 0.03 and -3 % are how much worse it may get."""
    assert compare.limits("ttft_p99=5%,tpot_p50=0.03,goodput=-3%") == pytest.approx(
        {"ttft_p99": 0.05, "tpot_p50": 0.03, "goodput": 0.03}
    )
