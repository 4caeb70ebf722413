"""Clients that leave, do not read or outlive the gateway."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest

from benchmarks.rig import Rig, until
from dsctl.oracle.ledger import EngineLine, read_lines
from tests.faults.clients import Answer, ask, assert_exact, body_of


def open_request(rig: Rig, body: dict[str, object], receive_buffer: int = 0) -> socket.socket:
    """Send a request on a raw socket and leave the answer unread."""
    host, port = rig.url.removeprefix("http://").split(":")
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(60)
    client.connect((host, int(port)))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


def engine_lines(rig: Rig) -> list[EngineLine]:
    """The oracles' ledger."""
    return list(read_lines(rig.folder / "engine.jsonl", EngineLine))


def test_leaving_stops_the_engine(tmp_path: Path) -> None:
    """A client that closes, streaming or not, ends its request on the engine and in the gateway's ledger."""
    with Rig(tmp_path, replicas=1, replica_options=["--ttft-ms", "5", "--itl-ms", "5"]) as rig:
        for number, stream in enumerate((True, False), start=1):
            client = open_request(rig, body_of(1, tokens=1_000_000, stream=stream, ignore_eos=True))
            until("it runs", lambda n=number: sum(line.event == "start" for line in engine_lines(rig)) == n)
            client.close()
            until("the engine freed it", lambda n=number: [x.outcome for x in engine_lines(rig)].count("aborted") == n)
            until("nothing is in flight", lambda: rig.status()["inflight"] == 0)

        def outcomes() -> list[str]:
            lines = (tmp_path / "gateway.jsonl").read_text().splitlines()
            return [json.loads(line)["outcome"] for line in lines]

        until("both are written down", lambda: outcomes() == ["aborted", "aborted"])


def test_slow_reader_is_bounded_and_cut(tmp_path: Path) -> None:
    """A client that does not read costs little memory and is cut at the write deadline; its engine work ends."""
    options = ["--write-deadline-s", "2"]
    with Rig(tmp_path, replicas=1, replica_options=["--ttft-ms", "1", "--itl-ms", "2"], gateway_options=options) as rig:
        before = psutil.Process(rig.gateway.pid).memory_info().rss
        body = body_of(1, tokens=1_000_000, n=8, logprobs=True, ignore_eos=True)
        body["model"] = "m" * 4000  # comes back in every chunk
        client = open_request(rig, body, receive_buffer=4096)
        until("it is cut", lambda: rig.metrics().get('dsctl_shed_total{reason="slow_reader"}') == 1)
        grown = psutil.Process(rig.gateway.pid).memory_info().rss - before
        client.close()
        assert grown < 30 << 20
        until("the engine freed it", lambda: [line.outcome for line in engine_lines(rig)].count("aborted") == 1)


def test_sigterm_lets_streams_end(tmp_path: Path) -> None:
    """SIGTERM: a running stream ends whole, nothing new is taken, the process ends with 0."""
    with Rig(tmp_path, replicas=1, replica_options=["--ttft-ms", "5", "--itl-ms", "20"]) as rig:
        body = body_of(4, tokens=60, ignore_eos=True)
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(ask(rig, body)))
        thread.start()
        until("it runs", lambda: rig.status()["inflight"] == 1)
        rig.gateway.signal(signal.SIGTERM)
        thread.join()
        assert answers[0].is_done
        assert rig.gateway.wait() == 0


def test_sigterm_at_last_ends_streams_with_a_word(tmp_path: Path) -> None:
    """A stream that outlasts the grace ends with an error event, not with silence."""
    with Rig(tmp_path, replicas=1, gateway_options=["--shutdown-s", "0.5"]) as rig:
        body = body_of(4, tokens=1_000_000, ignore_eos=True)
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(ask(rig, body)))
        thread.start()
        until("it runs", lambda: rig.status()["inflight"] == 1)
        rig.gateway.signal(signal.SIGTERM)
        thread.join()
        assert not answers[0].is_done
        assert answers[0].error is not None
        assert answers[0].error["code"] == "gateway_stopping"
        assert rig.gateway.wait() == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_unequal_numerics_is_only_a_valid_continuation(tmp_path: Path, stream: bool) -> None:
    """A stream that goes on where numerics differ says so in the answer and in a metric."""
    rig = Rig(tmp_path, replicas=2, replica_options=["--ttft-ms", "5", "--itl-ms", "5"])
    rig.replicas["r2"].arguments += ["--numerics-id", "other"]
    rig.states["r2"] = "draining"
    with rig:
        rig.fault("r1", "crash:after=80:times=1")
        body = body_of(3, tokens=100, stream=stream, ignore_eos=True)
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(ask(rig, body)))
        thread.start()
        until("it runs on r1", lambda: rig.status()["replicas"][0]["inflight"] == 1)
        rig.publish(r1="draining", r2="active")
        thread.join()
        answer = answers[0]
        assert_exact(answer, body)
        label = (
            ": continuation valid" in answer.raw if stream else answer.headers.get("x-dsctl-continuation") == "valid"
        )
        assert label
        assert rig.metrics()['dsctl_continuations_total{result="valid"}'] == 1
