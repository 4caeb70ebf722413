"""Cores that die, hang or kill themselves over a request: clients see a pause, or one explicit error (fake core)."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.programs import ROOT, Server, command, environment, serving, wait_until

BODY: dict[str, Any] = {"prompt": "x", "max_tokens": 60, "seed": 3, "logprobs": 2, "return_token_ids": True}


def _undisturbed(server: Server) -> list[dict[str, Any]]:
    return server.complete(**BODY, n=2)["choices"]


@pytest.mark.parametrize("spares", ["0", "1"])
@pytest.mark.parametrize("faults", [{"die_after_step": 17}, {"hang_at_step": 9}])
def test_the_answer_survives_the_core(
    server: Server, textual_model: Path, spares: str, faults: dict[str, float]
) -> None:
    """A core that kills itself or never ends a step: stream and whole answers are those of an undisturbed run."""
    expected = _undisturbed(server)
    with serving(textual_model, "--spare-cores", spares, faults={"step_s": 0.004, **faults}) as hurt:
        answers: dict[str, Any] = {}
        whole = threading.Thread(target=lambda: answers.update(whole=hurt.complete(**BODY, n=2)))
        whole.start()
        ids: list[list[int]] = [[], []]
        ends: list[str] = []
        for kind, chunk in hurt.events("/v1/completions", {**BODY, "n": 2, "stream": True}):
            for choice in chunk["choices"] if kind == "data" else []:
                ids[choice["index"]] += choice["token_ids"]
                ends += [choice["finish_reason"]] if choice["finish_reason"] else []
        whole.join(60)
        assert answers["whole"]["choices"] == expected
        assert answers["whole"]["usage"]["completion_tokens"] == 120
        assert ids == [choice["token_ids"] for choice in expected]
        assert ends == ["length", "length"]
        assert hurt.info()["restarts"] == 1
        assert hurt.metric("vllm:generation_tokens_total") == 240


def test_a_stopped_core_is_replaced(server: Server, textual_model: Path) -> None:
    """SIGSTOP: the silence is noticed, the core killed, and the answer is complete."""
    expected = _undisturbed(server)
    with serving(textual_model, faults={"step_s": 0.01}) as hurt:
        answers: dict[str, Any] = {}
        whole = threading.Thread(target=lambda: answers.update(hurt.complete(**BODY, n=2)))
        whole.start()
        wait_until(lambda: hurt.metric("vllm:generation_tokens_total") > 10, "some tokens")
        pid = hurt.core_pid()
        os.kill(pid, signal.SIGSTOP)
        whole.join(60)
        assert answers["choices"] == expected
        wait_until(lambda: hurt.core_pid() != pid, "the next core")
        wait_until(lambda: _is_gone(pid), "the end of the stopped core")


def test_an_idle_core_is_replaced_too(textual_model: Path) -> None:
    """A core killed with nothing to do: the server is not ready for a moment, then serves."""
    with serving(textual_model) as hurt:
        pid = hurt.core_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: hurt.info()["restarts"] == 1, "the restart")
        hurt.wait_ready()
        assert hurt.complete(**BODY)["usage"]["completion_tokens"] == 60
        assert hurt.core_pid() != pid
        assert hurt.get("/health").status_code == 200


def test_a_gateway_is_told(textual_model: Path, tmp_path: Path) -> None:
    """An open attempt gets a `lost` Meta with epoch and cause, then goes on with the tokens that were missing."""
    token = tmp_path / "token"
    token.write_text("t")
    with serving(textual_model, "--token-file", str(token), faults={"die_after_step": 5}) as hurt:
        hurt.headers["authorization"] = "Bearer t"
        attempt = {"route": "completions", "id": "a", "created": 1, "seed": 1, "attempt": 1}
        body = {"prompt": "x", "max_tokens": 12}
        metas = [
            value for kind, value in hurt.events("/internal/v1/generate", attempt | {"body": body}) if kind == "meta"
        ]
        lost = [meta["lost"] for meta in metas if "lost" in meta]
        assert lost == [{"epoch": 1, "cause": "core killed by signal 9"}]
        assert sum(len(meta.get("t", [])) for meta in metas) == 12
        assert metas[-1]["end"]["completion_tokens"] == 12


def test_a_poisonous_request_is_given_up(server: Server, textual_model: Path) -> None:
    """A request that kills every core gets one explicit error; its neighbours get their answers."""
    expected = server.complete(prompt="x", max_tokens=20, seed=3)["choices"][0]["text"]
    with serving(textual_model, faults={"poison_id": 200, "step_s": 0.002}) as hurt:
        answers: dict[int, Any] = {}

        def ask(key: int, prompt: Any) -> None:
            answers[key] = hurt.post("/v1/completions", {"prompt": prompt, "max_tokens": 20, "seed": 3})

        threads = [threading.Thread(target=ask, args=(key, "x")) for key in range(3)]
        threads.append(threading.Thread(target=ask, args=(9, [1, 200])))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert answers[9].status_code == 422
        assert answers[9].json()["error"]["code"] == "request_crashes_engine"
        assert [answers[key].json()["choices"][0]["text"] for key in range(3)] == [expected] * 3
        assert hurt.complete(prompt="x", max_tokens=20, seed=3)["choices"][0]["text"] == expected


def test_an_error_of_one_sequence(textual_model: Path) -> None:
    """A sequence that the core gives up (NaN logits) is 503 with Retry-After; in a stream it is an error frame."""
    with serving(textual_model, faults={"nan_id": 200}) as hurt:
        answer = hurt.post("/v1/completions", {"prompt": [1, 200]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_error")
        assert int(answer.headers["retry-after"]) >= 1
        assert hurt.complete(prompt="x", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_crash_loop_ends_the_process(textual_model: Path) -> None:
    """Three exits before ready end the process with 1 and the core's last words."""
    done = subprocess.run(
        command(textual_model, "--fault=die_in_epoch=3"),
        capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "3 times before it was ready" in done.stderr
    assert "fake core gives up while loading" in done.stderr.splitlines()[-1]


def test_two_failed_starts_are_forgiven(textual_model: Path) -> None:
    """Two exits before ready, then a good start: the server is ready."""
    with serving(textual_model, faults={"die_in_epoch": 2}) as hurt:
        assert hurt.info()["restarts"] == 2


def test_a_bad_checkpoint(textual_model: Path) -> None:
    """What the core calls fatal ends the process with its exit code and its message, at once."""
    done = subprocess.run(
        command(textual_model, "--fault=bad_checkpoint=1"),
        capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "model.norm.weight is truncated" in done.stderr


def test_the_core_dies_with_its_parent(textual_model: Path) -> None:
    """kill -9 of the API process ends its cores."""
    with serving(textual_model) as hurt:
        pid = hurt.core_pid()
        hurt.process.kill()
        hurt.process.wait()
        wait_until(lambda: _is_gone(pid), "the core's end")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
