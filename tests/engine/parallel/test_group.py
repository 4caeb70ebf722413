"""A core of several ranks as its API process sees it: a lost rank is noticed, and no request is lost with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.engine.checkpoints import make_checkpoint
from tests.engine.server.programs import Server, serving, wait_until

BODY = {
    "prompt": [5] * 40,
    "max_tokens": 60,
    "temperature": 0.8,
    "seed": 11,
    "ignore_eos": True,
    "return_token_ids": True,
}


def ranks(server: Server) -> list[int]:
    """The processes beside rank 0."""
    found = psutil.Process(server.core_pid()).children()
    return [child.pid for child in found if "engine.core.rank" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("axis", "number"),
    [
        ("pipeline", signal.SIGKILL), ("tensor", signal.SIGSTOP),
        pytest.param("pipeline", signal.SIGSTOP, marks=pytest.mark.long),
        pytest.param("tensor", signal.SIGKILL, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_lost_rank_costs_a_pause(tmp_path: Path, axis: str, number: signal.Signals) -> None:
    """Killing or stopping a rank in the middle of an answer ends the group and changes nothing of the answer."""
    model = make_checkpoint(tmp_path / "model", "v3")
    flags = ("--dtype", "float32", "--threads", "1", f"--{axis}-parallel-size", "2")
    with serving(model, *flags, core=None) as server:
        server.wait_ready()
        expected = server.complete(**BODY)["choices"][0]["token_ids"]
        [before] = ranks(server)
        found: list[int] = []
        is_hit = False
        for kind, event in server.events("/v1/completions", {**BODY, "stream": True}):
            if kind == "data":
                found += [token for choice in event["choices"] for token in choice["token_ids"]]
            if len(found) > 10 and not is_hit:
                is_hit = True
                os.kill(before, number)
        assert is_hit
        assert found == expected
        assert wait_until(lambda: server.info()["core_pids"] and ranks(server), "a new group") != [before]
        wait_until(lambda: not psutil.pid_exists(before), "the end of the lost rank")
        assert server.complete(**BODY)["choices"][0]["token_ids"] == expected
        assert f"rank 1 (pid {before} on " in server.stderr.read_text()
