"""The search on a simulated queue with a known capacity: the bracket holds it, and slopes find what shares do not."""

from __future__ import annotations

import heapq
import json
from pathlib import Path

import numpy as np
import pytest

from dsctl.base.errors import InvalidError, UsageError
from dsctl.base.exits import Exit
from dsctl.bench import records, run, search, slo
from dsctl.bench.records import Record, Window
from dsctl.bench.search import Probe, Range
from dsctl.bench.wish import Wish
from dsctl.cli import app
from tests.dsctl.bench import examples

SERVERS, SERVICE_S = 8, 0.1  # carries 80 requests per second
CAPACITY = SERVERS / SERVICE_S
OBJECTIVES = slo.parse("ttft=600ms", 0.95)


def queue(rate: float, seconds: float, rng: np.random.Generator) -> list[Record]:
    """An M/D/c queue: Poisson arrivals, eight servers of 100 ms each, first come first served."""
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.5) + 50))
    free = [0.0] * SERVERS
    rows: list[Record] = []
    for number, at in enumerate(due[due < seconds].tolist()):
        start = max(at, heapq.heappop(free))
        heapq.heappush(free, start + SERVICE_S)
        end = start + SERVICE_S
        rows.append(
            Record(
                id=number,
                worker=0,
                status="ok",
                t_intended=at,
                t_send=at,
                t_first=end,
                t_last=end,
                t_close=end,
                n_out=1,
            )
        )
    return rows


def queued(seed: int, seconds: float = 20.0) -> search.Measure:
    """Measures the queue; the same seed gives the same answers."""
    return lambda rate, number: Probe(
        queue(rate, seconds, np.random.default_rng([seed, int(rate * 1000), number])), Window(2.0, seconds), "open"
    )


def test_the_bracket_holds_the_capacity() -> None:
    """In at least 19 of 20 seeds the bracket holds a rate between where the share truly falls and the capacity.

    Half an hour of each rate says where 95 % meet the limit: 93 % do at 77 per second, so the edge is just below.
    """
    edge = 77.0
    held = 0
    for seed in range(20):
        found = search.search(Range(4, 500, is_whole=False), OBJECTIVES, queued(seed, 60.0))
        assert found.passed is not None
        assert found.failed is not None
        held += found.passed.level <= CAPACITY and found.failed.level >= edge
        assert 0.9 * edge <= found.passed.level < found.failed.level <= 1.2 * CAPACITY
    assert held >= 19


def test_too_much_load_is_found_while_the_share_still_fits() -> None:
    """Ten per cent too much for a minute: all requests meet generous limits, but waits and queue rise: it fails."""
    generous = slo.parse("ttft=60s", 0.95)
    for seed in range(5):
        found = search.probe(CAPACITY * 1.1, generous, queued(seed, 60.0))
        assert found.outcome == "fail"
        assert "over-saturated" in found.reason
        assert found.attainment == 1.0


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_a_load_that_is_carried_is_not_called_too_much(load: float) -> None:
    """Below capacity no seed of forty is called over-saturated."""
    assert not [s for s in range(40) if search.over_saturated(queued(s, 30.0)(CAPACITY * load, 0))]


def test_a_closed_loop_is_never_called_over_saturated() -> None:
    """Users wait for their answers, so requests in flight cannot rise; only the limits judge."""
    told = queued(1)(CAPACITY * 1.5, 0)
    assert search.over_saturated(told)
    assert not search.over_saturated(Probe(told.rows, told.window, "closed"))


def _flat(edge: float, n: int = 400) -> search.Measure:
    """All good up to `edge`, all bad above."""

    def measure(level: float, _: int) -> Probe:
        wait = 0.2 if level <= edge else 2.0
        return Probe([examples.record(i, i * 0.1, ttft=wait) for i in range(n)], Window(0, n * 0.1), "closed")

    return measure


@pytest.mark.parametrize("edge", [1, 2, 3, 7, 8, 37, 255, 511])
def test_whole_levels_are_found_exactly_or_to_the_precision(edge: int) -> None:
    """With users the bracket is two neighbours while they are few, and within 5 % beyond."""
    found = search.search(Range(1, 512), slo.parse("ttft=500ms"), _flat(edge))
    assert found.passed is not None
    assert found.failed is not None
    assert found.passed.level <= edge < found.failed.level
    assert found.failed.level - found.passed.level <= max(1, 0.05 * found.passed.level)
    assert len(found.levels) <= 20


def test_a_range_that_holds_no_edge_says_so() -> None:
    """All levels pass, or none does: one side of the bracket is missing and the note says what to change."""
    above = search.search(Range(1, 16), slo.parse("ttft=500ms"), _flat(99))
    assert (above.passed.level if above.passed else None, above.failed) == (16, None)
    assert "raise --max" in above.notes[0]
    below = search.search(Range(4, 16), slo.parse("ttft=500ms"), _flat(3))
    assert (below.passed, below.failed.level if below.failed else None) == (None, 4)
    assert "--min" in below.notes[0]


def test_a_level_is_measured_until_it_is_settled() -> None:
    """A share on the edge takes the most tries, a clear one takes one; an unsettled one says so."""
    tries: list[int] = []

    def mixed(share: float) -> search.Measure:
        def measure(_: float, number: int) -> Probe:
            tries.append(number)
            rows = [examples.record(i, i * 0.1, ttft=0.2 if i % 100 < share * 100 else 2.0) for i in range(200)]
            return Probe(rows, Window(0, 20), "closed")

        return measure

    assert search.probe(1, slo.parse("ttft=500ms", 0.9), mixed(0.99)).tries == 1
    assert search.probe(1, slo.parse("ttft=500ms", 0.9), mixed(0.5)).tries == 1
    edge = search.probe(1, slo.parse("ttft=500ms", 0.9), mixed(0.9))
    assert (edge.tries, edge.outcome) == (search.MOST_TRIES, "pass")
    assert "not settled" in edge.reason
    assert tries[-4:] == [0, 1, 2, 3]


def test_an_edge_that_is_not_sharp_widens_the_bracket() -> None:
    """A level that fails at first and passes when asked again is no end: it looks further up."""

    def moody(level: float, number: int) -> Probe:
        return _flat(20 if number < search.MOST_TRIES else 30)(level, number)

    found = search.search(Range(1, 64), slo.parse("ttft=500ms"), moody)
    assert found.passed is not None
    assert found.failed is not None
    assert (found.passed.level, found.failed.level) == (21, 22)
    assert found.notes == ("21 came out as fail and then as pass: searched around it again",)


def test_a_pass_that_does_not_hold_widens_the_bracket_downwards() -> None:
    """A level that passes at first and fails when asked again is no end either."""

    def moody(level: float, number: int) -> Probe:
        return _flat(20 if number < search.MOST_TRIES else 17)(level, number)

    found = search.search(Range(1, 64), slo.parse("ttft=500ms"), moody)
    assert found.passed is not None
    assert found.failed is not None
    assert (found.passed.level, found.failed.level) == (19, 20)
    assert "20 came out as pass" in found.notes[0]


@pytest.mark.parametrize(("low", "high"), [(0, 5), (5, 5), (8, 4), (1, float("inf"))])
def test_an_empty_range_is_a_usage_error(low: float, high: float) -> None:
    """Nothing between --min and --max is refused before anything is measured."""
    with pytest.raises(UsageError):
        search.search(Range(low, high), OBJECTIVES, _never)


def test_limits_on_requests_are_needed() -> None:
    """An objective on the run alone (error_rate) is none on requests."""
    with pytest.raises(UsageError, match="limits on requests"):
        search.search(Range(1, 4), slo.parse("error_rate=1%"), _never)


def test_a_level_without_requests_is_invalid() -> None:
    """Nothing measured settles nothing."""
    with pytest.raises(InvalidError):
        search.probe(1, OBJECTIVES, lambda _level, _try: Probe([], Window(0, 1), "open"))


def _never(level: float, number: int) -> Probe:
    raise AssertionError("must not be measured")


def test_the_command_keeps_every_run_and_says_the_bracket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dsctl bench search` drives a run a level, keeps it with its run.json, and ends with 0, or 1 when none passes."""
    asked: list[float] = []

    def measured(wish: Wish, site: run.Site, folder: Path, watcher: object) -> run.Ran:
        level = float(wish.concurrency or 0)
        asked.append(level)
        told = _flat(5)(level, 0)
        records.write(folder / records.ROWS, told.rows)
        facts = examples.facts(mode="closed", window=told.window, valid=len(asked) != 2, reasons=["busy"])
        return run.Ran(facts, list(told.rows))

    monkeypatch.setattr(run, "measure", measured)
    command = ["bench", "search", "--url", "http://127.0.0.1:1", "--slo", "ttft=500ms", "--max", "64", "--quiet"]
    assert app.run([*command, "--out", str(tmp_path / "one")]) == Exit.OK
    assert "[5, 6] users" in capsys.readouterr().out
    assert asked[:3] == [1, 2, 2]  # the second run was not valid, so it was made again
    told = json.loads((tmp_path / "one" / "search.json").read_text())
    assert (told["last_pass"], told["first_fail"]) == (5, 6)
    assert json.loads((tmp_path / "one" / "level-4-1" / "run.json").read_text())["verdict"] == "pass"
    assert app.run([*command, "--out", str(tmp_path / "two"), "--min", "7", "--json"]) == Exit.FAILED
    assert json.loads(capsys.readouterr().out)["last_pass"] is None


@pytest.mark.parametrize(
    "wrong", [["--over", "mood"], ["--min", "9", "--max", "3"], ["--precision", "2"], ["--slo", "error_rate=1%"]]
)
def test_a_search_that_cannot_be_is_refused_at_once(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options are usage errors, told before a server is asked for anything."""
    command = ["bench", "search", "--url", "http://127.0.0.1:1", "--slo", "ttft=500ms", *wrong]
    assert app.run(command) == Exit.USAGE
    assert capsys.readouterr().err.startswith("dsctl: ")
