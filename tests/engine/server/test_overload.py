"""Queues are bounded, deadlines kept, and nobody computes for a client that left (fake core)."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.programs import Server, serving, wait_until


@pytest.fixture(scope="module")
def narrow(textual_model: Path) -> Iterator[Server]:
    """One sequence at a time, two may wait, 20 ms a token."""
    with serving(textual_model, "--max-num-seqs", "1", "--max-queue", "2", faults={"step_s": 0.02}) as running:
        yield running


def _idle(server: Server) -> bool:
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_queue_is_bounded(narrow: Server, stream: bool) -> None:
    """Beyond the queue a request is 503 with Retry-After at once; those before it are served."""
    wait_until(lambda: _idle(narrow), "an idle server")
    codes: list[int] = []
    answers: list[dict[str, str]] = []

    def ask() -> None:
        answer = narrow.post("/v1/completions", {"prompt": "x", "max_tokens": 40, "stream": stream})
        codes.append(answer.status_code)
        answers.append({"retry": answer.headers.get("retry-after", ""), "text": answer.text})

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 3
    refused = [answer for code, answer in zip(codes, answers, strict=True) if code == 503]
    assert all(int(answer["retry"]) >= 1 for answer in refused)
    assert all(json.loads(answer["text"])["error"]["code"] == "queue_full" for answer in refused)


def test_a_deadline_cuts_the_answer(narrow: Server) -> None:
    """x-dsctl-deadline-ms ends a running answer as `abort` with what there is, and frees the core."""
    answer = narrow.post(
        "/v1/completions", {"prompt": "x", "max_tokens": 400}, headers={"x-dsctl-deadline-ms": "400"}
    ).json()
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert 0 < answer["usage"]["completion_tokens"] < 400
    wait_until(lambda: _idle(narrow), "an idle server")


def test_a_deadline_in_the_queue(narrow: Server) -> None:
    """A deadline that passes before the first token is 503 with Retry-After."""
    blocker = threading.Thread(target=lambda: narrow.complete(prompt="x", max_tokens=60))
    blocker.start()
    wait_until(lambda: narrow.metric("vllm:num_requests_running") == 1, "the blocker")
    refused = narrow.post("/v1/completions", {"prompt": "x"}, headers={"x-dsctl-deadline-ms": "50"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert refused.headers["retry-after"]
    blocker.join(60)
    bad = narrow.post("/v1/completions", {"prompt": "x"}, headers={"x-dsctl-deadline-ms": "soon"})
    assert bad.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(narrow: Server, stream: bool) -> None:
    """Closing the connection aborts the sequence in the core, whether it streams or not."""
    wait_until(lambda: _idle(narrow), "an idle server")
    with _connected(narrow, {"prompt": "x", "max_tokens": 450, "stream": stream}):
        wait_until(lambda: narrow.metric("vllm:num_requests_running") == 1, "the request to run")
    wait_until(lambda: _idle(narrow), "the place to be free", timeout_s=5)  # to the end it would take 9 s
    aborted = [line for line in narrow.get("/metrics").text.splitlines() if 'finished_reason="abort"' in line]
    assert aborted


def _connected(server: Server, body: dict[str, Any]) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_sigterm_finishes_what_is_open(textual_model: Path) -> None:
    """After SIGTERM new requests are refused, the open one gets its whole answer, and the process ends with 0."""
    with serving(textual_model, faults={"step_s": 0.02}) as server:
        answers: list[Any] = []
        open_one = threading.Thread(target=lambda: answers.append(server.complete(prompt="x", max_tokens=80)))
        open_one.start()
        wait_until(lambda: server.metric("vllm:num_requests_running") == 1, "the request to run")
        core = server.core_pid()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status_code == 503, "the draining")
        refused = server.post("/v1/completions", {"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        open_one.join(60)
        assert answers[0]["usage"]["completion_tokens"] == 80
        assert server.process.wait(30) == 0
        wait_until(lambda: not Path(f"/proc/{core}").exists(), "the core's end")


def test_a_second_signal_hurries(textual_model: Path) -> None:
    """A second SIGTERM ends open requests with an explicit error frame and no [DONE]."""
    with serving(textual_model, faults={"step_s": 0.05}) as server:
        began = time.monotonic()
        last: Any = None
        for kind, value in server.events("/v1/completions", {"prompt": "x", "max_tokens": 500, "stream": True}):
            if last is None:
                server.process.send_signal(signal.SIGTERM)
                wait_until(lambda: server.get("/ready").status_code == 503, "the draining")
                server.process.send_signal(signal.SIGTERM)
            last = (kind, value)
        assert last[0] == "data"
        assert last[1]["error"]["code"] == "shutting_down"
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 25
