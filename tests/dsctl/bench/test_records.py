"""The files of a run: rows and facts come back as they were written, and broken ones are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest

from dsctl.base.errors import DsctlError, UsageError
from dsctl.bench import records
from dsctl.bench.records import Record, RunFacts, SelfCheck, Stage, Window


def _row(number: int) -> Record:
    return Record(
        id=number, worker=1, status="ok", t_intended=number / 10, t_send=number / 10 + 0.001, t_first=number / 10 + 0.2,
        t_last=number / 10 + 0.5, n_out=4, chunks=4, gaps=[0.1, 0.1, 0.1], finish="stop", http=200,
    )  # fmt: skip


def test_rows_come_back_sorted_and_equal(tmp_path: Path) -> None:
    """Rows written in any order come back by id, equal field by field, and the same rows give the same bytes."""
    rows = [_row(number) for number in (2, 0, 1)]
    file = tmp_path / records.ROWS
    records.write(file, rows)
    first = file.read_bytes()
    assert list(records.read(tmp_path)) == sorted(rows, key=lambda row: row.id)
    records.write(file, reversed(rows))
    assert file.read_bytes() == first


def test_arrivals_follow_the_gaps() -> None:
    """The time of every token event is the first one plus the gaps; none without a first."""
    assert _row(0).arrivals() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert Record(id=0, worker=0, status="unsent", t_intended=0.0).arrivals() == []


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    """A row that is none says which file and row; a missing file is a usage error."""
    with pytest.raises(UsageError, match="does not exist"):
        list(records.read(tmp_path))
    with gzip.open(tmp_path / records.ROWS, "wb") as file:
        file.write(records.encode(_row(0)) + b"{}\n")
    with pytest.raises(DsctlError, match="row 2"):
        list(records.read(tmp_path))


def test_run_facts_ignore_what_the_judge_adds(tmp_path: Path) -> None:
    """run.json comes back as the run's facts whatever else stands beside them; a newer one is refused."""
    check = SelfCheck(
        loop_lag_p99=0.001, loop_lag_max=0.01, cpu=0.2, send_lag_p99=0.0, send_lag_limit=0.01, target_rate=None,
        achieved_rate=None, samples=10, server_restarts=0, workers_lost=0,
    )  # fmt: skip
    facts = RunFacts(
        started_at="2026-01-01T00:00:00Z", mode="closed", config={"url": "u"}, request_set_sha256="a",
        schedule_sha256="b", env={}, window=Window(1.0, 3.0), stages=[Stage(0, 4.0, 1.0, 3.0)], self_check=check,
        valid=True, reasons=[],
    )  # fmt: skip
    told = msgspec.to_builtins(facts)
    records.write_run(tmp_path, {**told, "metrics": {"ttft": {}}})
    assert records.facts(records.read_run(tmp_path)) == facts
    records.write_run(tmp_path, {**told, "schema_version": records.SCHEMA_VERSION + 1})
    with pytest.raises(UsageError, match="newer"):
        records.read_run(tmp_path)
