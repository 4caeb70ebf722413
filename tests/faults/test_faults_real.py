"""The real engine under random kills and stops of its API processes and cores: nothing fails, nothing is altered."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import Scheme, run_faults
from benchmarks.real import real_plans
from benchmarks.rig import Rig, until
from tests.engine.checkpoints import make_checkpoint

SEED = 31
SAME: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}),
    (
        "chat/completions",
        {
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "seed": 1, "n": 2, "logprobs": True,
            "top_logprobs": 2, "return_token_ids": True,
        },
    ),
    (
        "completions",
        {
            "prompt": ["ab", "cd"], "max_tokens": 6, "seed": 1, "logprobs": 2, "echo": True, "return_token_ids": True,
            "n": 2,
        },
    ),
    ("completions", {"prompt": "ab", "max_tokens": 0, "logprobs": 2, "echo": True, "prompt_logprobs": 1}),
    ("completions", {"prompt": [1, 2, 3], "max_tokens": 6, "temperature": 0, "stop": ["x"]}),
    ("inference", {"text": "ab", "max_tokens": 6, "temperature": 0}),
    ("completions", {"prompt": "ab", "max_tokens": -6}),
    ("completions", {"prompt": "ab", "no_such_field": 1}),
    ("completions", {"prompt": "ab", "model": "none"}),
    ("completions", {"prompt": "ab" * 4000}),
]  # fmt: skip


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


@pytest.mark.long
def test_answers_through_the_gateway_are_the_replica_s_own(tmp_path: Path) -> None:
    """Answers that are put together from a stream, and refusals, equal what the replica answers itself."""
    model = make_checkpoint(tmp_path / "model", tokenizer=True)
    options = ["--model", str(model), "--threads", "1"]
    with Rig(tmp_path, 1, replica_module="engine.server", replica_options=options) as rig:
        until("ready", lambda: rig.client.get(f"{rig.url}/ready").status_code == 200)
        for path, body in SAME:
            through = rig.client.post(f"{rig.url}/v1/{path}", json=body)
            headers = {"authorization": "Bearer replica-secret"}
            direct = rig.client.post(f"{rig.urls['r1']}/v1/{path}", json=body, headers=headers)
            assert through.status_code == direct.status_code
            assert comparable(through.json()) == comparable(direct.json())


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from request to request."""
    usage = {key: value for key, value in (answer.get("usage") or {}).items() if key != "prompt_tokens_details"}
    return {key: value for key, value in answer.items() if key not in ("id", "created", "usage")} | usage
