"""The real engine under random kills and stops of its API processes and cores: nothing fails, nothing is altered."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from benchmarks.faults import Scheme, run_faults
from benchmarks.real import real_plans
from benchmarks.rig import Rig
from tests.engine.checkpoints import make_checkpoint

SEED = 31


@pytest.mark.long
@pytest.mark.timeout(600)
def test_real_engine_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """300 greedy and seeded requests through kill -9 and SIGSTOP of cores and API processes: 0 failed or altered."""
    model = make_checkpoint(tmp_path / "model", tokenizer=True)
    options = ["--model", str(model), "--threads", "1"]
    rig = Rig(tmp_path, replica_module="engine.server", replica_options=options)
    plans = real_plans(rig, random.Random(SEED), 300)
    kinds = ("kill api", "stop api", "kill core", "stop core")
    report = run_faults(tmp_path, plans, 5.0, SEED, Scheme(kinds=kinds, pause_s=(2.0, 5.0)), rig)
    report.engine = "a random DeepSeek-V3 checkpoint"
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(report.lines()) + "\n")
    assert report.findings == []
