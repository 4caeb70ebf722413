"""`dsctl bench` as a user runs it, against the stand-in server and the stubborn ones: real processes, real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dsctl.bench import records
from dsctl.bench.records import Record

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 100


def bench(folder: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    done = subprocess.run(
        [sys.executable, "-m", "dsctl", "bench", *options], cwd=folder, capture_output=True, text=True, timeout=WAIT_S,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DSCTL_HOME": str(folder / "home"), "TERM": "dumb"} | (env or {}),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def outcome(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """run.json and the rows of a run."""
    return records.read_run(folder), list(records.read(folder))


def test_a_mock_run_leaves_numbers_and_evidence(tmp_path: Path) -> None:
    """A bare verb with --mock and two workers: every request is recorded once, both workers sent, the verdict is told.

    On a busy machine the run may call itself invalid; it must then exit 9 and say why, and never show a number.
    """
    code, out, err = bench(
        tmp_path, "--mock", "--duration", "3s", "--warmup", "1s", "--concurrency", "8", "--osl", "8", "--workers", "2",
        "--out", "run", "--json",
    )  # fmt: skip
    assert code in (0, 9), err
    told = json.loads(out)
    run, rows = outcome(tmp_path / "run")
    assert {key: told[key] for key in run} == run
    assert run["valid"] == (code == 0)
    assert bool(run["reasons"]) or code == 0
    assert [row.id for row in rows] == sorted({row.id for row in rows})
    assert {row.worker for row in rows} == {0, 1}
    assert all(row.status == "ok" and row.n_out == row.chunks == 8 and len(row.gaps) == 7 for row in rows)
    assert any(row.warmup for row in rows)
    assert run["counts"]["ok"] == sum(not row.warmup for row in rows)
    assert "measuring" in err
    assert not list((tmp_path / "run").glob("rows-*"))
