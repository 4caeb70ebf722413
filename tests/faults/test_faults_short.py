"""Random kills and stops under load: nothing fails, nothing is altered, and three ledgers tell one story."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from benchmarks.faults import Scheme, run_faults
from benchmarks.load import oracle_plan

SEED = 20


def test_random_faults_alter_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """160 mixed requests through random kill -9 and SIGSTOP of two replicas: 0 failed or altered."""
    rng = random.Random(SEED)
    plans = [oracle_plan(rng, number) for number in range(160)]
    scheme = Scheme(pause_s=(0.4, 1.2), cont_after_s=3.0)
    report = run_faults(tmp_path, plans, 20.0, SEED, scheme)
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(report.lines()) + "\n")
    assert report.findings == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_random_faults_alter_nothing_at_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 000 mixed requests at 25 per second, stops of 6 s: 0 failed or altered."""
    rng = random.Random(SEED)
    plans = [oracle_plan(rng, number) for number in range(3000)]
    report = run_faults(tmp_path, plans, 25.0, SEED, Scheme())
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(report.lines()) + "\n")
    assert report.findings == []
