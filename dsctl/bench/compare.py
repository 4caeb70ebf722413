"""Whether one set of runs is better or worse than another, how sure that is, and what it could not have seen.

The effect of a metric is the difference between the sides' means of its logarithm a run (a ratio, in per cent). Its
error has two parts: within a run by the bootstrap over requests, and between runs by how much the runs of a
side in fact differ (drift, neighbours, cache state). Resampling three runs as a whole would give intervals that are too
narrow. The larger of the two is taken: Student's with (runs − 2) degrees of freedom when the runs differ by as much as
their requests explain or more, and with more degrees, up to the normal, the better they agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dsctl.base.errors import InvalidError, UsageError
from dsctl.bench import judge, metrics, slo, statistics
from dsctl.bench.judge import Mode
from dsctl.bench.metrics import Sample
from dsctl.bench.runs import Run
from dsctl.bench.statistics import Values

Word = Literal["improved", "worse", "unchanged", "inconclusive", "n/a"]
DEFAULT_THRESHOLD = 0.03  # a change below this is not called one, unless --max-regression says otherwise
DEFAULT_ALPHA = 0.01
MANY = 1e6  # degrees of freedom from which Student's distribution is the normal
POWER = 0.8  # the chance with which the minimum detectable effect would have been found
DRAWS = 2000
SLICES = 20  # spans of the window whose spread tells how sure a throughput is
LATENCIES = ("ttft", "tpot", "itl", "icl", "e2e")
RATES = ("output_tokens_per_s", "requests_per_s", "goodput")
MORE_IS_BETTER = frozenset(RATES)
SHOWN = (
    "ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "e2e_p50", "e2e_p99", "output_tokens_per_s", "requests_per_s",
    "goodput", "error_rate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one run: its value, and the standard error of its logarithm (of itself for error_rate)."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What changed in one metric from A to B. Changes are relative (0.1 is +10 %), for error_rate absolute."""

    name: str
    a: float | None
    b: float | None
    change: float | None
    low: float | None
    high: float | None
    detectable: float | None  # the least change that would have been found with 80 % power
    threshold: float
    word: Word
    words: str
    is_gated: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it is written; +∞ is "inf"."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return {name: metrics.number(value) if isinstance(value, float) else value for name, value in told.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All effects, and what they mean together."""

    effects: tuple[Effect, ...]
    alpha: float
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Effect, ...]:
        """What a gate fails for."""
        return tuple(effect for effect in self.effects if effect.is_gated and effect.word == "worse")

    @property
    def undecided(self) -> tuple[Effect, ...]:
        """Gated metrics of which nothing can be said."""
        return tuple(effect for effect in self.effects if effect.is_gated and effect.word == "inconclusive")


def limits(text: str) -> dict[str, float]:
    """`ttft_p99=5%,tpot_p50=3%,goodput=-3%` as the change for the worse that is still allowed; UsageError otherwise."""
    found: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(
                f"--max-regression: {part!r} has no limit", hint="--max-regression ttft_p99=5%,tpot_p50=3%"
            )
        _require_known(name)
        found[name] = slo.fraction(value.lstrip("+-"), f"--max-regression {name}")
    if not found:
        raise UsageError("--max-regression names no metric", hint="--max-regression ttft_p99=5%,tpot_p50=3%")
    return found


def _require_known(name: str) -> None:
    base, _, p = name.rpartition("_")
    if name in RATES or name == "error_rate" or (base in LATENCIES and p in statistics.PERCENTILES):
        return
    known = ", ".join((*RATES, "error_rate"))
    raise UsageError(
        f"--max-regression: there is no metric {name!r}",
        hint=f"{'|'.join(LATENCIES)} with _{'|_'.join(statistics.PERCENTILES)}, or {known}",
    )


def compare(
    a: Sequence[Run], b: Sequence[Run], *, gates: dict[str, float] | None = None, alpha: float = DEFAULT_ALPHA,
    objectives: slo.Objectives | None = None, shown: Sequence[str] = SHOWN,
) -> Comparison:  # fmt: skip
    """Every metric of B against A. InvalidError when a gated metric has too few samples to be compared at all.

    With several gates each has alpha / gates (Bonferroni), so that the whole comparison cries wolf at most at alpha.
    """
    wanted = gates or {}
    mode = a[0].facts.mode
    request_limits = objectives.requests if objectives else {}
    sides = [[_Gathered.of(run, mode, request_limits) for run in side] for side in (a, b)]
    each = alpha / max(1, len(wanted))
    names = [*wanted, *(name for name in shown if name not in wanted)]
    effects: list[Effect] = []
    for name in names:
        is_gated = name in wanted
        found = _effect(name, sides, each if is_gated else alpha, wanted.get(name, DEFAULT_THRESHOLD), is_gated)
        if found is not None:
            effects.append(found)
    lacking = [effect for effect in effects if effect.is_gated and effect.word == "n/a"]
    if lacking:
        why = "\n".join(effect.words for effect in lacking)
        raise InvalidError("a metric of --max-regression cannot be compared", why=why, hint="measure longer")
    return Comparison(tuple(effects), alpha, _notes(a, b))


def _notes(a: Sequence[Run], b: Sequence[Run]) -> tuple[str, ...]:
    if min(len(a), len(b)) >= 3:
        return ()
    return (
        f"{len(a)} and {len(b)} runs: what differs from run to run is hardly known or not at all, so a difference may "
        "be the day's and not the server's; measure with --repeat 3",
    )


@dataclass(frozen=True, slots=True)
class _Gathered:
    """One run, computed once for all metrics."""

    run: Run
    sample: Sample
    mode: Mode
    limits: dict[str, float]
    rng: np.random.Generator

    @classmethod
    def of(cls, run: Run, mode: Mode, limits: dict[str, float]) -> _Gathered:
        return cls(run, run.sample, mode, limits, np.random.default_rng(len(run.rows)))

    def measure(self, name: str) -> Measured | str:
        """The metric, or why there is none."""
        if name == "error_rate":
            return _share(len(self.sample.bad), self.sample.attempted)
        if name == "goodput":
            return self._goodput()
        if name in RATES:
            return self._rate(name)
        base, _, p = name.rpartition("_")
        return self._percentile(judge.metric_of(base, self.mode), p)

    def _percentile(self, name: str, p: str) -> Measured | str:
        metric = metrics.BY_NAME[name]
        lost = len(self.sample.bad) if metric.counts_failures else 0
        ordered = statistics.ordered(metrics.values(metric, self.sample.ok), lost)
        mille = statistics.PERCENTILES[p]
        value = statistics.percentile(ordered, mille)
        if value is None:
            return f"{name}_{p}: n={len(ordered)} in {self.run.path}, needs {statistics.needed(mille)}"
        if value <= 0:
            return f"{name}_{p}: {value:g} in {self.run.path} has no ratio"
        if metric.one is None:
            return Measured(value, self._clustered_error(metric, mille))
        return Measured(value, bootstrap_error(ordered, mille, self.rng))

    def _clustered_error(self, metric: metrics.Metric, mille: int) -> float:
        """Gaps of one request hang together, so requests are drawn, not gaps: by the spread over groups of requests."""
        groups = [metrics.values(metric, self.sample.ok[i::SLICES]) for i in range(SLICES)]
        told = [group[statistics.rank(len(group), mille)] for group in map(np.sort, groups) if len(group)]
        logs = np.log(np.asarray(told))
        return float(logs.std(ddof=1)) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf

    def _goodput(self) -> Measured | str:
        if not self.limits:
            return "goodput needs --slo"
        told = judge.goodput(self.sample, self.limits, self.mode, self.run.facts.window.seconds)
        good, total = told["good"], told["attempted"]
        if good == 0:
            return f"goodput: no request met the limits in {self.run.path}"
        return Measured(told["per_second"], math.sqrt((1 - good / total) / good))

    def _rate(self, name: str) -> Measured | str:
        window = self.run.facts.window
        edges = np.linspace(window.start, window.end, SLICES + 1)
        whole = metrics.throughput(self.run.rows, window)[name]
        if not whole:
            return f"{name}: n/a in {self.run.path}"
        each = metrics.Events.of(self.run.rows).rates(edges)[name]
        return Measured(whole, float(each.std(ddof=1)) / math.sqrt(SLICES) / whole)


def _share(bad: int, total: int) -> Measured | str:
    if total == 0:
        return "error_rate: no request was measured"
    smoothed = (bad + 0.5) / (total + 1)  # never exactly 0: no error among ten is not certainty
    return Measured(bad / total, math.sqrt(smoothed * (1 - smoothed) / total))


def bootstrap_error(ordered: Values, mille: int, rng: np.random.Generator) -> float:
    """The bootstrap's standard error of the logarithm of a percentile, without resampling.

    The k-th smallest of n draws with replacement from n sorted values is the value at place ⌊n·U⌋, where U is the k-th
    smallest of n uniform numbers, which is Beta(k, n − k + 1); so each replicate is one draw from that distribution.
    """
    n = len(ordered)
    k = statistics.rank(n, mille) + 1
    places = np.minimum((n * rng.beta(k, n - k + 1, DRAWS)).astype(np.int64), n - 1)
    drawn = ordered[places]
    if not np.isfinite(drawn).all():
        return math.inf
    return float(np.log(np.maximum(drawn, 1e-12)).std(ddof=1))


def _effect(
    name: str, sides: Sequence[Sequence[_Gathered]], alpha: float, threshold: float, is_gated: bool
) -> Effect | None:
    """One metric's effect; None when nobody asked for it and it cannot be told."""
    found = [[run.measure(name) for run in side] for side in sides]
    lacks = [one for side in found for one in side if isinstance(one, str)]
    if lacks:
        if not is_gated and name == "goodput":
            return None
        return Effect(name, None, None, None, None, None, None, threshold, "n/a", lacks[0], is_gated)
    a, b = ([one for one in side if isinstance(one, Measured)] for side in found)
    middle = [float(np.median([one.value for one in side])) for side in (a, b)]
    if not all(math.isfinite(one.value) and math.isfinite(one.error) for one in (*a, *b)):
        return _beyond(name, middle, threshold, is_gated)
    as_ratio = name != "error_rate"
    difference, error, freedom = _difference(a, b, as_ratio=as_ratio)
    quantile = statistics.t_quantile(1 - alpha / 2, freedom)
    low, high = difference - quantile * error, difference + quantile * error
    least = (quantile + statistics.t_quantile(POWER, freedom)) * error
    back = math.expm1 if as_ratio else float
    word, words = _verdict(name, (back(difference), back(low), back(high)), threshold, back(least))
    told = (back(difference), back(low), back(high), back(least))
    return Effect(name, middle[0], middle[1], *told, threshold, word, words, is_gated)


def _difference(a: Sequence[Measured], b: Sequence[Measured], *, as_ratio: bool) -> tuple[float, float, float]:
    """(difference B − A, its standard error, its degrees of freedom), on the logarithm for a ratio."""
    sides = [[math.log(one.value) if as_ratio else one.value for one in side] for side in (a, b)]
    difference = float(np.mean(sides[1]) - np.mean(sides[0]))
    within = sum(float(np.mean([one.error**2 for one in side])) / len(side) for side in (a, b))
    freedom = len(a) + len(b) - 2
    if freedom == 0:
        return difference, math.sqrt(within), MANY
    squares = sum(float(((np.asarray(side) - np.mean(side)) ** 2).sum()) for side in sides)
    seen = squares / freedom * (1 / len(a) + 1 / len(b))
    whole = max(within, seen)
    effective = min(freedom * (whole / seen) ** 2, MANY) if seen > 0 else MANY
    return difference, math.sqrt(whole), effective


def _beyond(name: str, middle: Sequence[float], threshold: float, is_gated: bool) -> Effect:
    """A percentile that failures made +∞ (or that is so near them that its error is unbounded)."""
    one, other = (math.isfinite(value) for value in middle)
    word: Word = "inconclusive" if one == other else "worse" if one else "improved"
    words = f"{name}: so many requests failed that it is unbounded in {'B' if one else 'A'}"
    if one == other:
        words = f"{name}: failures reach this percentile, so its error is unbounded"
    return Effect(name, middle[0], middle[1], None, None, None, None, threshold, word, words, is_gated)


def _verdict(name: str, change: tuple[float, float, float], threshold: float, least: float) -> tuple[Word, str]:
    """The word for a change with its interval. Only a change that is certain and larger than the threshold is one."""
    middle, low, high = change
    unit = " points" if name == "error_rate" else ""
    figures = f"{name}: {middle:+.1%}{unit} ({low:+.1%} … {high:+.1%})"
    is_certain = low > 0 or high < 0
    if is_certain and abs(middle) > threshold:
        is_better = (middle > 0) == (name in MORE_IS_BETTER)
        return ("improved" if is_better else "worse"), f"{figures}, beyond {threshold:.1%}{unit}"
    if -threshold < low and high < threshold:
        return "unchanged", f"{figures}, within ±{threshold:.1%}{unit}"
    if is_certain:
        return "inconclusive", f"{figures}: a change, but not certainly beyond {threshold:.1%}{unit}"
    return "inconclusive", f"{figures}; this many requests show changes from {least:.1%}{unit} on"
