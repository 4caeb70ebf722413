"""Queues are bounded, deadlines kept, and nobody computes for a client that left (fake core)."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.server import exchange as exchange_module
from tests.engine.server.programs import Server, serving, wait_until


@pytest.fixture
def held_model(textual_model: Path, tmp_path: Path) -> Path:
    """A model of its own, whose fake core can be held by a file."""
    path = tmp_path / "held"
    shutil.copytree(textual_model, path)
    return path


@contextmanager
def holding(server: Server) -> Iterator[None]:
    """No step ends while this lasts."""
    hold = Path(server.info()["config"]["model"]) / "hold"
    hold.touch()
    try:
        yield
    finally:
        hold.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def narrow(textual_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One sequence at a time, two may wait, 20 ms a token."""
    path = tmp_path_factory.mktemp("narrow") / "model"
    shutil.copytree(textual_model, path)
    faults = {"step_s": 0.02, "hold_at_step": 1}
    with serving(path, "--max-num-seqs", "1", "--max-queue", "2", faults=faults) as running:
        yield running


def _idle(server: Server) -> bool:
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0


def _runs(server: Server) -> bool:
    return server.metric("vllm:num_requests_running") > 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_queue_is_bounded(narrow: Server, stream: bool) -> None:
    """Beyond the queue a request is 503 with Retry-After at once; those before it are served."""
    wait_until(lambda: _idle(narrow), "an idle server")
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(narrow.post("/v1/completions", {"prompt": "x", "max_tokens": 3, "stream": stream}))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    with holding(narrow):
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 9, "the refusals")
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 9
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}


def test_a_deadline_cuts_the_answer(held_model: Path) -> None:
    """x-dsctl-deadline-ms ends a running answer as `abort` with what there is."""
    (held_model / "hold").touch()
    with serving(held_model, faults={"hold_at_step": 4}) as server:
        answer = server.post(
            "/v1/completions", {"prompt": "x", "max_tokens": 400}, headers={"x-dsctl-deadline-ms": "4000"}
        ).json()
        assert answer["choices"][0]["finish_reason"] == "abort"
        tokens = answer["usage"]["completion_tokens"]  # a held core may be taken for hung and replaced meanwhile
        assert 3 <= tokens < 400
        (held_model / "hold").unlink()
        wait_until(lambda: _idle(server), "the place to be free")
        assert server.metric("vllm:generation_tokens_total") == tokens


def test_a_deadline_in_the_queue(narrow: Server) -> None:
    """A deadline that passes before the first token is 503 with Retry-After."""
    with holding(narrow):
        refused = narrow.post("/v1/completions", {"prompt": "x"}, headers={"x-dsctl-deadline-ms": "50"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert refused.headers["retry-after"]
    bad = narrow.post("/v1/completions", {"prompt": "x"}, headers={"x-dsctl-deadline-ms": "soon"})
    assert bad.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(narrow: Server, stream: bool) -> None:
    """Closing the connection aborts the sequence in the core, whether it streams or not."""
    wait_until(lambda: _idle(narrow), "an idle server")
    before = narrow.metric("vllm:generation_tokens_total")
    with _connected(narrow, {"prompt": "x", "max_tokens": 500, "stream": stream}):
        wait_until(lambda: _runs(narrow), "the request to run")
    wait_until(lambda: _idle(narrow), "the place to be free")
    assert narrow.metric("vllm:generation_tokens_total") - before < 500
    assert 'finished_reason="abort"' in narrow.get("/metrics").text


def _connected(server: Server, body: dict[str, Any]) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_sigterm_finishes_what_is_open(held_model: Path) -> None:
    """After SIGTERM new requests are refused, the open one gets its whole answer, and the process ends with 0."""
    (held_model / "hold").touch()
    with serving(held_model, faults={"hold_at_step": 2}) as server:
        answers: list[Any] = []
        open_one = threading.Thread(target=lambda: answers.append(server.complete(prompt="x", max_tokens=20)))
        open_one.start()
        wait_until(lambda: _runs(server), "the request to run")
        core = server.core_pid()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status_code == 503, "the draining")
        refused = server.post("/v1/completions", {"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        (held_model / "hold").unlink()
        open_one.join(60)
        assert answers[0]["usage"]["completion_tokens"] == 20
        assert server.process.wait(30) == 0
        wait_until(lambda: not Path(f"/proc/{core}").exists(), "the core's end")


def test_a_second_signal_hurries(held_model: Path) -> None:
    """A second SIGTERM ends open requests with an explicit error frame and no [DONE]."""
    (held_model / "hold").touch()
    with serving(held_model, faults={"hold_at_step": 2}) as server:
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


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that makes no progress until the deadline aborts the connection."""
    monkeypatch.setattr(exchange_module, "WRITE_DEADLINE_S", 0.05)
    cuts: list[bool] = []

    class Transport:
        def abort(self) -> None:
            cuts.append(True)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message.get("more_body"):
            await asyncio.Event().wait()

    extensions = {"engine.transport": {"transport": Transport()}}
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "extensions": extensions}
    exchange = exchange_module.Exchange(scope, receive, send)
    await exchange.start_stream()
    with pytest.raises(exchange_module.ClientGoneError):
        await exchange.write(b"data")
    assert cuts == [True]
