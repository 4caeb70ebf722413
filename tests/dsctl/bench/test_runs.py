"""Runs read back from disk: damage is told by file, what differs by name, and objectives are judged again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dsctl.base.errors import IncomparableError, InvalidError, UsageError
from dsctl.bench import gate, records, runs, slo
from tests.dsctl.bench import examples

ROWS = [examples.record(i, i * 0.1) for i in range(300)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run on disk."""
    return examples.write(tmp_path / "run", ROWS, objectives=slo.parse("ttft=500ms"))


def test_a_run_is_read_as_it_was_written(run: Path) -> None:
    """Rows and facts come back equal, from the directory or from either file of it."""
    for path in (run, run / records.RUN, run / records.ROWS):
        found = runs.load(path)
        assert list(found.rows) == ROWS
        assert found.facts == examples.facts()


def test_repeats_are_read_in_their_order(tmp_path: Path) -> None:
    """A directory of runs gives them by number, 2 before 10."""
    for name in ("run-10", "run-2", "run-1"):
        examples.write(tmp_path / name, ROWS)
    assert [found.path.name for found in runs.load_all(tmp_path)] == ["run-1", "run-2", "run-10"]


def _truncate(run: Path) -> None:
    rows = run / records.ROWS
    rows.write_bytes(rows.read_bytes()[:-200])


def _garble(run: Path) -> None:
    rows = run / records.ROWS
    whole = bytearray(rows.read_bytes())
    whole[40:60] = bytes(20)
    rows.write_bytes(bytes(whole))


def _change(**more: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        told = json.loads((run / records.RUN).read_text())
        told = {name: value for name, value in (told | more).items() if value is not None}
        (run / records.RUN).write_text(json.dumps(told))

    return change


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated rows": (_truncate, records.ROWS),
    "garbled rows": (_garble, records.ROWS),
    "rows that are no gzip": (lambda run: (run / records.ROWS).write_bytes(b"{}\n"), records.ROWS),
    "a row that is no JSON": (lambda run: (run / records.ROWS).write_bytes(gzip.compress(b"{,}\n")), records.ROWS),
    "a row that lacks a key": (
        lambda run: (run / records.ROWS).write_bytes(gzip.compress(b'{"id":1}\n')),
        records.ROWS,
    ),
    "no rows": (lambda run: (run / records.ROWS).write_bytes(gzip.compress(b"")), records.ROWS),
    "no row file": (lambda run: (run / records.ROWS).unlink(), records.ROWS),
    "half a run.json": (lambda run: (run / records.RUN).write_text('{"schema_version": 1, '), records.RUN),
    "a run.json that is a list": (lambda run: (run / records.RUN).write_text("[]"), records.RUN),
    "no window": (_change(window=None), records.RUN),
    "a window of words": (_change(window="long"), records.RUN),
    "a newer schema": (_change(schema_version=99), records.RUN),
    "a schema of words": (_change(schema_version="new"), records.RUN),
    "newer definitions": (_change(definitions_version=99), records.RUN),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_usage_error_that_names_the_file(run: Path, damage: str) -> None:
    """Whatever is broken, the error ends with 2 and holds the path of the file to look at."""
    harm, name = DAMAGES[damage]
    harm(run)
    with pytest.raises(UsageError) as caught:
        runs.load(run)
    assert str(run / name) in caught.value.message


def test_keys_of_a_later_version_are_read_over(run: Path) -> None:
    """What a later dsctl of the same schema adds does not stop this one."""
    _change(something_new={"a": 1})(run)
    assert runs.load(run).facts == examples.facts()


def test_nothing_there_is_a_usage_error(tmp_path: Path) -> None:
    """A path that does not exist, and a directory without runs, are told apart."""
    with pytest.raises(UsageError, match="does not exist"):
        runs.load_all(tmp_path / "no")
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        runs.load_all(tmp_path)


def test_runs_of_different_things_are_not_compared(tmp_path: Path) -> None:
    """Every difference in what was asked is named; where it ran and what was asked of the result is none."""
    config = examples.facts().config
    a = examples.write(tmp_path / "a", ROWS)
    told = examples.facts(config=config | {"model": "other", "isl": "1024", "url": "http://other", "workers": 9})
    b = examples.write(tmp_path / "b", ROWS, told)
    one, other = runs.load_all(a), runs.load_all(b)
    with pytest.raises(IncomparableError) as caught:
        runs.require_comparable(one, other)
    assert [line.partition(":")[0] for line in caught.value.why.splitlines()] == ["isl", "model"]
    runs.require_comparable(one, other, frozenset({"isl", "model"}))


@pytest.mark.parametrize("more", [{"mode": "closed"}, {"request_set_sha256": "x"}, {"schedule_sha256": "x"}])
def test_other_requests_or_times_are_not_comparable(tmp_path: Path, more: dict[str, str]) -> None:
    """Another load mode, request set or schedule is a difference, even with equal options."""
    a = runs.load_all(examples.write(tmp_path / "a", ROWS))
    b = runs.load_all(examples.write(tmp_path / "b", ROWS, examples.facts(**more)))
    with pytest.raises(IncomparableError):
        runs.require_comparable(a, b)


def test_a_run_that_is_not_valid_proves_nothing(tmp_path: Path) -> None:
    """Gate and compare refuse it with its own reasons."""
    path = examples.write(tmp_path / "run", ROWS, examples.facts(valid=False, reasons=["loop lag 9 ms"]))
    with pytest.raises(InvalidError) as caught:
        gate.gate(runs.load_all(path), slo.parse("ttft=1s"))
    assert caught.value.why == "loop lag 9 ms"


def test_the_gate_judges_again(run: Path) -> None:
    """New objectives are judged from the rows; without any, those of the run are; the failing one has its name."""
    found = gate.gate(runs.load_all(run), slo.parse("ttft=500ms,tpot=10ms"))[0]
    assert [one.name for one in found.failed] == ["tpot", "all limits"]
    own = gate.gate(runs.load_all(run), None)[0]
    assert [one.name for one in own.judged] == ["ttft"]
    assert not own.failed


def test_a_pass_by_luck_is_marked(tmp_path: Path) -> None:
    """Three hundred good requests of three hundred prove 98 %, but not 99.9 %."""
    path = examples.write(tmp_path / "run", ROWS)
    assert not gate.gate(runs.load_all(path), slo.parse("ttft=500ms", 0.98))[0].unsettled
    assert gate.gate(runs.load_all(path), slo.parse("ttft=500ms", 0.999))[0].unsettled


def test_a_gate_needs_objectives_and_samples(tmp_path: Path) -> None:
    """No objective anywhere is a usage error; a percentile of too few requests makes the measurement invalid."""
    found = runs.load_all(examples.write(tmp_path / "run", ROWS))
    with pytest.raises(UsageError, match="without objectives"):
        gate.gate(found, None)
    with pytest.raises(InvalidError) as caught:
        gate.gate(found, slo.parse("ttft_p99=1s"))
    assert "needs 1000" in caught.value.why
