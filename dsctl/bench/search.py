"""How much load a service carries within its objectives: the last level that passed and the first that failed.

Levels double until one fails, then the span between is halved. A level is judged by as many requests as it takes: it
passes when Wilson's lower bound of the attainment reaches the target, fails when the upper bound does not, and is
measured again while neither holds. A level whose time to first token *and* requests in flight rise over the measurement
is over-saturated and fails whatever its attainment: it would have failed in a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dsctl.base.errors import InvalidError, UsageError
from dsctl.bench import judge, metrics, statistics, timeline
from dsctl.bench.judge import Mode
from dsctl.bench.records import Record, Window
from dsctl.bench.slo import Objectives
from dsctl.bench.statistics import Slope

Outcome = Literal["pass", "fail"]
MOST_TRIES = 4  # of one level, while its share is not settled
SLICES = 20  # spans of the window over which slopes are taken
RISE = 1.0  # of its mean: what waits and requests in flight have to rise by over a window; from nothing it is 2


@dataclass(frozen=True, slots=True)
class Probe:
    """What one measurement at one level gave."""

    rows: Sequence[Record]
    window: Window
    mode: Mode


Measure = Callable[[float, int], Probe]  # (level, which try at it) → what was measured; raises for an invalid run


@dataclass(frozen=True, slots=True)
class Range:
    """Where to look: levels are whole numbers (users), or real ones (requests per second)."""

    low: float
    high: float
    is_whole: bool = True
    precision: float = 0.05  # stop when the bracket is this narrow, relative to its lower end

    def check(self) -> None:
        """UsageError unless there is something to search."""
        if not 0 < self.low < self.high or not math.isfinite(self.high):
            raise UsageError(
                f"there is nothing between --min {self.low:g} and --max {self.high:g}", hint="--min 1 --max 512"
            )


@dataclass(frozen=True, slots=True)
class Level:
    """A level and how it was judged."""

    level: float
    outcome: Outcome
    good: int
    attempted: int
    tries: int
    reason: str
    per_second: float | None  # good requests per second

    @property
    def attainment(self) -> float:
        """Good among attempted."""
        return self.good / self.attempted if self.attempted else 0.0

    def as_json(self) -> dict[str, Any]:
        """As it is told."""
        low, high = statistics.wilson(self.good, self.attempted)
        return {
            "level": self.level, "outcome": self.outcome, "attainment": self.attainment, "wilson95": [low, high],
            "attempted": self.attempted, "tries": self.tries, "goodput": self.per_second, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bracket:
    """[last level that passed, first that failed]; None where the range ended first."""

    passed: Level | None
    failed: Level | None
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it is told."""
        return {
            "last_pass": self.passed.level if self.passed else None,
            "first_fail": self.failed.level if self.failed else None,
            "levels": [level.as_json() for level in self.levels],
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class _Search:
    """The levels tried so far."""

    span: Range
    objectives: Objectives
    measure: Measure
    say: Callable[[str], None]
    levels: dict[float, Level] = field(default_factory=lambda: dict[float, Level]())
    notes: list[str] = field(default_factory=lambda: list[str]())

    def at(self, level: float) -> Level:
        if level not in self.levels:
            self.levels[level] = found = probe(level, self.objectives, self.measure)
            self.say(f"{level:g}: {found.outcome}, {found.reason}")
        return self.levels[level]

    def double(self) -> tuple[float | None, float | None]:
        """Levels ×2 from the lowest until one fails: (last pass, first fail)."""
        passed: float | None = None
        level = self.span.low
        while self.at(level).outcome == "pass":
            passed = level
            if level >= self.span.high:
                return passed, None
            level = min(level * 2, self.span.high)
        return passed, level

    def halve(self, passed: float, failed: float) -> tuple[float, float]:
        """The bracket made as narrow as asked."""
        while True:
            middle = (passed + failed) / 2
            middle = float(math.floor(middle)) if self.span.is_whole else middle
            if middle <= passed or failed - passed <= self.span.precision * passed:
                return passed, failed
            if self.at(middle).outcome == "pass":
                passed = middle
            else:
                failed = middle

    def confirm(self, level: float, outcome: Outcome) -> None:
        """Measures an end of the bracket once more; the later outcome counts."""
        again = probe(level, self.objectives, self.measure, first_try=MOST_TRIES)
        if again.outcome != outcome:
            self.levels[level] = again
            self.notes.append(f"{level:g} came out as {outcome} and then as {again.outcome}: searched around it again")
            self.say(self.notes[-1])

    def sure(self, level: float, outcome: Outcome) -> float | None:
        """The nearest level outwards that came out so at last; None when there is none."""
        known = [one for one, told in self.levels.items() if told.outcome == outcome]
        if outcome == "pass":
            return max((one for one in known if one <= level), default=None)
        return min((one for one in known if one >= level), default=None)


def search(
    span: Range, objectives: Objectives, measure: Measure, say: Callable[[str], None] = lambda _: None
) -> Bracket:
    """The bracket within a range. Both ends are measured once more; around one that does not hold it looks again.

    Raises InvalidError when a level cannot be measured, UsageError without limits on requests.
    """
    span.check()
    if not objectives.requests:
        raise UsageError("search needs limits on requests", hint="--slo ttft=500ms,tpot=50ms")
    state = _Search(span, objectives, measure, say)
    passed, failed = state.double()
    if passed is not None and failed is not None:
        passed, failed = state.halve(passed, failed)
        state.confirm(passed, "pass")
        state.confirm(failed, "fail")
        passed, failed = state.sure(passed, "pass"), state.sure(failed, "fail")
        if passed is not None and failed is not None:
            passed, failed = state.halve(passed, failed)
    elif passed is None:
        state.notes.append(f"already {span.low:g} fails: start lower with --min, or loosen the objectives")
    else:
        state.notes.append(f"{span.high:g} still passes: raise --max")
    levels = tuple(sorted(state.levels.values(), key=lambda one: one.level))
    found = [None if level is None else state.levels[level] for level in (passed, failed)]
    return Bracket(found[0], found[1], levels, (*state.notes, *_not_monotone(levels)))


def _not_monotone(levels: Sequence[Level]) -> list[str]:
    """A pass above a fail, which no single bracket can describe."""
    fails = [one.level for one in levels if one.outcome == "fail"]
    odd = [one.level for one in levels if one.outcome == "pass" and fails and one.level > min(fails)]
    return [f"{', '.join(f'{level:g}' for level in odd)} passed above a level that failed"] if odd else []


def probe(level: float, objectives: Objectives, measure: Measure, first_try: int = 0) -> Level:
    """One level, measured until its share is settled, at most four times; unsettled, it is judged by what was found."""
    good = attempted = 0
    seconds = 0.0
    words, rate = "", None
    for number in range(MOST_TRIES):
        told = measure(level, first_try + number)
        sample = metrics.sample(told.rows, told.window)
        found = judge.goodput(sample, objectives.requests, told.mode, told.window.seconds)
        good, attempted = good + found["good"], attempted + found["attempted"]
        seconds += told.window.seconds
        if attempted == 0:
            raise InvalidError(f"no request was measured at {level:g}", hint="a longer --duration")
        rate = good / seconds if seconds > 0 else None
        rises = over_saturated(told)
        if rises:
            return Level(level, "fail", good, attempted, number + 1, rises, rate)
        low, high = statistics.wilson(good, attempted)
        words = f"{good / attempted:.2%} of {attempted} met all limits ({low:.2%} – {high:.2%})"
        if low >= objectives.attainment:
            return Level(level, "pass", good, attempted, number + 1, words, rate)
        if high < objectives.attainment:
            return Level(level, "fail", good, attempted, number + 1, words, rate)
    outcome: Outcome = "pass" if good / attempted >= objectives.attainment else "fail"
    return Level(level, outcome, good, attempted, MOST_TRIES, f"{words}, not settled by {MOST_TRIES} tries", rate)


def over_saturated(told: Probe) -> str:
    """Why the server cannot keep up with this load; empty when it can.

    Both have to rise, with 95 % certainty and by their mean over the window: time to first token (from the
    schedule), and requests in flight. In a closed loop requests in flight cannot rise, so it is never found there.
    """
    if told.mode != "open" or told.window.seconds <= 0:
        return ""
    start, width = told.window.start, told.window.seconds / SLICES
    middles = [start + (i + 0.5) * width for i in range(SLICES)]
    inside = [row for row in told.rows if start <= row.t_intended < told.window.end]
    waits = [
        (row.t_intended, value)
        for row in inside
        if (value := metrics.ttft_sched(row)) is not None or (value := _waited(row, told.window.end)) is not None
    ]
    flight = timeline.in_flight(told.rows, middles)
    first = statistics.slope([x for x, _ in waits], [y for _, y in waits])
    second = statistics.slope([x for x, _ in flight], [y for _, y in flight])
    if first is None or second is None:
        return ""
    means = (sum(y for _, y in waits) / len(waits), sum(y for _, y in flight) / len(flight))
    if not all(_matters(one, mean, told.window.seconds) for one, mean in ((first, means[0]), (second, means[1]))):
        return ""
    return (
        f"over-saturated: each second of the measurement, time to first token rose by {first.value * 1000:.3g} ms and "
        f"requests in flight by {second.value:.3g}"
    )


def _matters(slope: Slope, mean: float, seconds: float) -> bool:
    return slope.rises and slope.value * seconds > RISE * mean


def _waited(row: Record, end: float) -> float | None:
    """A request without a first token had waited at least until it was given up."""
    return (row.t_close if row.t_close is not None else end) - row.t_intended if row.t_send is not None else None
