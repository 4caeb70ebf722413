"""Dumps of PyTorch's flight recorder: the rank to blame and its call; pickles are never opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsctl.facts import flight
from dsctl.flows.diagnose import Wish, diagnose


def _entry(seq: int, state: str, op: str = "all_reduce", line: int = 88) -> dict[str, Any]:
    return {
        "collective_seq_id": seq, "profiling_name": f"nccl:{op}", "state": state, "process_group": ["0", "default_pg"],
        "input_sizes": [[4, 256]], "timeout_ms": 600000, "is_p2p": False,
        "frames": [
            {"name": "all_reduce", "filename": "/v/site-packages/torch/distributed/c.py", "line": 1},
            {"name": "step", "filename": "/w/train.py", "line": line},
        ],
    }  # fmt: skip


def _dump(entries: list[dict[str, Any]], enqueued: int, completed: int) -> str:
    status = {"0": {"last_enqueued_collective": str(enqueued), "last_completed_collective": str(completed)}}
    return json.dumps({"version": "2.10", "pg_config": {}, "pg_status": status, "entries": entries})


def _write(directory: Path, dumps: list[str]) -> list[dict[str, Any]]:
    from dsctl.doctor.report import as_json

    for rank, text in enumerate(dumps):
        (directory / f"nccl_trace_rank_{rank}.json").write_text(text)
    return as_json(diagnose(Wish(logs=(str(directory),))))["findings"]


def test_the_rank_behind_is_named(tmp_path: Path) -> None:
    """One rank had queued fewer collectives: it is to blame, and the call the others wait in is quoted."""
    waiting = _dump([_entry(41, "completed"), _entry(42, "started")], 43, 41)
    found = _write(tmp_path, [waiting, waiting, _dump([_entry(41, "completed")], 41, 41), waiting])
    assert [f["rule"] for f in found] == ["RANK-BEHIND"]
    assert found[0]["ranks"] == [2]
    assert "train.py:88" in found[0]["evidence"][0]["text"]


def test_a_missing_dump_is_a_missing_rank(tmp_path: Path) -> None:
    """A rank between the others that left no dump never joined."""
    waiting = _dump([_entry(42, "started")], 42, 41)
    for rank in (0, 1, 3):
        (tmp_path / f"nccl_trace_rank_{rank}.json").write_text(waiting)
    found = diagnose(Wish(logs=(str(tmp_path),))).findings
    assert [(f.rule.id, f.ranks) for f in found] == [("RANK-ABSENT", (2,))]


def test_different_calls_name_both_places(tmp_path: Path) -> None:
    """Ranks in different operations of one number: both calls and the odd rank are named."""
    usual = _dump([_entry(42, "started")], 42, 41)
    found = _write(tmp_path, [usual, _dump([_entry(42, "started", "all_gather", 120)], 42, 41), usual])
    assert [f["rule"] for f in found] == ["RANK-DESYNC"]
    assert found[0]["ranks"] == [1]
    assert "train.py:120" in found[0]["cause"]
    assert "train.py:88" in found[0]["cause"]


def test_finished_dumps_are_no_finding(tmp_path: Path) -> None:
    """Dumps in which every call ended blame nobody."""
    assert _write(tmp_path, [_dump([_entry(42, "completed")], 42, 42)] * 4) == []


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """The pickled form is passed over unopened, and the report has the command that converts it."""
    path = tmp_path / "nccl_trace_rank_0"
    path.write_bytes(b"\x80\x04\x95\x10\x00entries-cos\nsystem\n.")
    found = diagnose(Wish(logs=(str(tmp_path),)))
    assert found.findings == []
    ((name, why),) = found.passed_over
    assert name == str(path)
    assert "never opened" in why
    assert "json.dump(pickle.load" in why
    assert why.endswith(str(path))


@pytest.mark.parametrize(
    "text",
    [
        '{"entries": [], "pg_status": {}, ',
        '{"entries": [1, null, "x"], "pg_status": []}',
        '{"entries": [{"state": 7, "process_group": [], "frames": {}}], "pg_status": {"0": 1}}',
    ],
)
def test_damaged_dumps_do_not_crash(text: str, tmp_path: Path) -> None:
    """Whatever a dump holds, the doctor ends; what cannot be read is said."""
    assert _write(tmp_path, [text]) == []


def test_a_dump_without_rank_is_refused() -> None:
    """Neither content nor name tells the rank: ValueError says how to name it."""
    with pytest.raises(ValueError, match="rank_N"):
        flight.read("dump.json", '{"entries": [], "pg_status": {}}')
