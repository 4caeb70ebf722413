"""The real core killed, stopped and hung in mid-answer: what clients get is bit for bit the undisturbed answer."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.programs import Server, serving, wait_until

SAMPLED: dict[str, Any] = {
    "prompt": "The quick brown fox", "max_tokens": 40, "n": 3, "seed": 11, "temperature": 0.9, "top_p": 0.95,
    "presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1, "logprobs": 3,
    "return_token_ids": True, "ignore_eos": True,
}  # fmt: skip
GREEDY: dict[str, Any] = {"prompt": "abc", "max_tokens": 70, "temperature": 0, "return_token_ids": True, "logprobs": 0}


def _streamed(server: Server, body: dict[str, Any], hurt_after: int, number: signal.Signals) -> dict[int, Any]:
    """Stream a completion and hurt the core once `hurt_after` tokens have arrived."""
    got: dict[int, Any] = {i: {"ids": [], "text": "", "logprobs": [], "ends": []} for i in range(body.get("n", 1))}
    seen, pid = 0, server.core_pid()
    for kind, chunk in server.events("/v1/completions", {**body, "stream": True}):
        for choice in chunk["choices"] if kind == "data" else []:
            mine = got[choice["index"]]
            mine["ids"] += choice["token_ids"]
            mine["text"] += choice["text"]
            mine["logprobs"] += (choice["logprobs"] or {}).get("token_logprobs", [])
            mine["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
            seen += len(choice["token_ids"])
        if pid and seen >= hurt_after:
            os.kill(pid, number)
            pid = 0
    return got


def _expected(answer: dict[str, Any]) -> dict[int, Any]:
    return {
        choice["index"]: {
            "ids": choice["token_ids"],
            "text": choice["text"],
            "logprobs": choice["logprobs"]["token_logprobs"],
            "ends": [choice["finish_reason"]],
        }
        for choice in answer["choices"]
    }


@pytest.mark.parametrize(("body", "moment"), [(SAMPLED, 0), (GREEDY, 1), (SAMPLED, 50)])
def test_killed_streams_are_identical(real: Server, body: dict[str, Any], moment: int) -> None:
    """kill -9 after 0, 1 and 50 tokens: ids, text and log-probabilities as if nothing had happened."""
    expected = _expected(real.complete(**body))
    restarts = real.info()["restarts"]
    assert _streamed(real, body, moment, signal.SIGKILL) == expected
    wait_until(lambda: real.info()["restarts"] == restarts + 1, "the restart")
    real.wait_ready()


def test_a_killed_whole_answer_is_identical(real: Server) -> None:
    """A client that does not stream only waits longer; usage counts every token once."""
    expected = real.complete(**SAMPLED)
    answers: dict[str, Any] = {}
    before = real.metric("vllm:generation_tokens_total")
    asking = threading.Thread(target=lambda: answers.update(real.complete(**SAMPLED)))
    asking.start()
    wait_until(lambda: real.metric("vllm:generation_tokens_total") > before + 20, "some tokens")
    os.kill(real.core_pid(), signal.SIGKILL)
    asking.join(60)
    assert answers["choices"] == expected["choices"]
    assert answers["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
    real.wait_ready()


def test_a_stopped_core_is_identical(real: Server) -> None:
    """SIGSTOP in mid-answer: the core is replaced, the answer the same."""
    expected = _expected(real.complete(**SAMPLED))
    assert _streamed(real, SAMPLED, 30, signal.SIGSTOP) == expected
    real.wait_ready()


def test_an_endless_step_is_identical(real: Server, real_model: Path) -> None:
    """A step that never ends while heartbeats go on: the core is replaced, the answer the same."""
    expected = _expected(real.complete(**SAMPLED))
    faults = {"hang_at_step": 25, "epochs": 1}
    with serving(real_model, "--dtype", "float32", core=None, faults=faults) as hung:
        assert _expected(hung.complete(**SAMPLED)) == expected
        assert hung.info()["restarts"] == 1


def test_stop_strings_and_characters_over_the_seam(real: Server) -> None:
    """A stop string found after a replay ends the answer at the same character."""
    text = real.complete(**GREEDY)["choices"][0]["text"]
    stop = text[40:43]
    body = {**GREEDY, "stop": [stop]}
    expected = _expected(real.complete(**body))
    assert _streamed(real, body, 20, signal.SIGKILL) == expected
    real.wait_ready()


def test_want_of_memory_sheds_one_request_and_leaves_the_server_up(real: Server, real_model: Path) -> None:
    """The allocator refuses every step with a long piece of one prompt: that request fails with a reason, the stream
    beside it says what it would have said, no core restarts, and the next request is answered."""
    expected = _expected(real.complete(**GREEDY))
    with serving(real_model, "--dtype", "float32", core=None, faults={"oom_rows": 100, "step_s": 0.01}) as starved:
        got: dict[int, Any] = {}
        stream = threading.Thread(target=lambda: got.update(_streamed(starved, GREEDY, 10**9, signal.SIGKILL)))
        before = starved.metric("vllm:generation_tokens_total")
        stream.start()
        wait_until(lambda: starved.metric("vllm:generation_tokens_total") > before + 3, "some tokens")
        shed = starved.post("/v1/completions", {"prompt": [7] * 150, "max_tokens": 4})
        stream.join(60)
        assert shed.status_code == 503, shed.text
        assert "allocate" in shed.json()["error"]["message"]
        assert got == expected
        assert starved.info()["restarts"] == 0
        assert _expected(starved.complete(**GREEDY)) == expected
