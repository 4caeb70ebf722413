"""A load worker against servers that do exactly what a test wants: what it records, and when it saw it."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest

from dsctl.bench import selfcheck
from dsctl.bench.lengths import Length
from dsctl.bench.loads import Level, Load
from dsctl.bench.plan import Plan, Target, Workload
from dsctl.bench.progress import Ended
from dsctl.bench.records import Window
from dsctl.bench.selfcheck import Evidence
from tests.dsctl.bench.scripted import CHUNKED, HEAD, chunk, one_by_one, server, working
from tests.dsctl.bench.test_answer import USAGE, delta, frame

ROLE = chunk(frame(delta(role="assistant", content="")))
TOKEN = chunk(frame(delta(content="x")))
FINISH = chunk(frame(delta(finish_reason="stop")))
DONE = chunk(frame("[DONE]")) + b"0\r\n\r\n"
GOOD = CHUNKED + ROLE + TOKEN * 3 + FINISH + chunk(frame(USAGE)) + DONE
NO_ROOM = b'{"error":{"code":"overloaded","message":"no room"}}'
REFUSED = b"HTTP/1.1 503 No\r\ncontent-length: %d\r\n\r\n%b" % (len(NO_ROOM), NO_ROOM)
ERROR = chunk(frame({"error": {"code": "internal", "message": "it broke"}}))

SCRIPT: list[tuple[str, bytes, bool]] = [
    ("ok", GOOD, True),
    ("http_error", REFUSED, True),
    ("stream_error", CHUNKED + TOKEN + ERROR + b"0\r\n\r\n", True),
    ("cut", CHUNKED + TOKEN + b"5\r\ndat", False),
    ("cut", CHUNKED + TOKEN + b"0\r\n\r\n", True),
    ("empty", CHUNKED + ROLE + DONE, True),
    ("malformed", CHUNKED + TOKEN + chunk(b"data: {half\n\n") + DONE, True),
    ("malformed", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
    ("connect_error", b"HTT", False),
    ("connect_error", b"", False),
    ("ok", HEAD + b"connection: close\r\n\r\n" + frame(delta(content="y")) + frame("[DONE]"), False),
    ("ok", GOOD, True),
]


def test_every_ending_has_its_name(tmp_path: Path) -> None:
    """Answers that ended well, were refused, broke, were cut, empty or nonsense are told apart; none is sent twice."""
    asked: list[int] = []

    def play(connection: socket.socket, number: int, _: bytes) -> bool:
        asked.append(number)
        _, answer, keeps = SCRIPT[number]
        connection.sendall(answer)
        return keeps

    with server(play) as url, working(tmp_path, url, one_by_one(len(SCRIPT))) as worker:
        rows = worker.rows()
    assert [row.status for row in rows] == [status for status, _, _ in SCRIPT]
    assert asked == list(range(len(SCRIPT)))
    assert (rows[0].chunks, rows[0].n_out, rows[0].n_cached, rows[0].finish) == (3, 3, 4, "stop")
    assert rows[1].http == 503
    assert "overloaded: no room" in rows[1].error
    assert "internal: it broke" in rows[2].error
    assert (rows[0].t_connect is None, rows[1].t_connect, rows[4].t_connect is None) == (False, None, False)


def test_a_connection_that_was_just_closed_is_no_failure(tmp_path: Path) -> None:
    """A server that closes an idle connection as a request comes on it gets it once more on a new one, and that is
    told; one that closes a new connection has failed."""
    asked: list[int] = []

    def play(connection: socket.socket, number: int, _: bytes) -> bool:
        asked.append(number)
        if number in (1, 3, 4):
            return False
        connection.sendall(GOOD)
        return True

    with server(play) as url, working(tmp_path, url, one_by_one(4)) as worker:
        rows = worker.rows()
    assert [(row.status, row.resent) for row in rows] == [
        ("ok", False), ("ok", True), ("connect_error", True), ("ok", False),
    ]  # fmt: skip
    assert asked == [0, 1, 2, 3, 4, 5]
    assert [row.t_connect is None for row in rows] == [False, False, False, False]


def test_times_are_those_of_the_tokens(tmp_path: Path) -> None:
    """A role-only frame stops no clock: the first token is seen after it was sent, the last one before what follows it.

    Bounds are the server's own times on the same clock, so a busy machine cannot break them.
    """
    sent: list[float] = []

    def play(connection: socket.socket, _: int, __: bytes) -> bool:
        sent.append(time.perf_counter())
        connection.sendall(CHUNKED + ROLE)
        time.sleep(0.2)
        sent.append(time.perf_counter())
        connection.sendall(TOKEN[:9])
        time.sleep(0.1)
        sent.append(time.perf_counter())
        connection.sendall(TOKEN[9:] + TOKEN + FINISH + DONE)
        return True

    with server(play) as url, working(tmp_path, url, one_by_one(1)) as worker:
        start = next(message["start"] for message in worker.messages() if message["type"] == "began")
        (row,) = worker.rows()
    assert row.t_send is not None
    assert row.t_headers is not None
    assert row.t_first is not None
    assert row.t_last is not None
    assert start + row.t_send <= sent[0]
    assert start + row.t_first >= sent[2] - 2e-6
    assert row.t_first - row.t_headers <= row.t_first - row.t_send
    assert (row.chunks, row.gaps) == (2, [row.t_last - row.t_first])


WAITS_FOR_1024 = """
import gevent.socket
_recv = gevent.socket.socket.recv
def recv(self, size, *flags):
    data = b""
    while len(data) < 1024:
        part = _recv(self, 1024 - len(data))
        if not part:
            break
        data += part
    return data
gevent.socket.socket.recv = recv
"""


@pytest.mark.parametrize(("before", "is_seen"), [("", True), (WAITS_FOR_1024, False)], ids=["reader", "read-1024"])
def test_a_token_is_seen_when_it_comes(tmp_path: Path, before: str, is_seen: bool) -> None:
    """A small first token is told while the server holds the rest back; a reader that waits for 1 024 bytes fails this.

    The server holds until the worker has told of the token, or (the broken reader) has told three times of none.
    """
    release = threading.Event()

    def play(connection: socket.socket, _: int, __: bytes) -> bool:
        connection.sendall(CHUNKED + ROLE + TOKEN)
        release.wait(60)
        connection.sendall(TOKEN * 20 + FINISH + DONE)
        return False

    told: list[int] = []
    patience = 30 if is_seen else 3
    with server(play) as url, working(tmp_path, url, one_by_one(1), before=before) as worker:
        for message in worker.messages():
            if message["type"] == "beat" and message["sent"]:
                told.append(message["events"])
                if told[-1] or len(told) >= patience:
                    release.set()
        release.set()
        (row,) = worker.rows()
    assert row.status == "ok"
    assert row.chunks == 21
    assert (1 in told[:patience]) == is_seen


def test_turns_build_on_what_was_said(tmp_path: Path) -> None:
    """Turn by turn the whole conversation is sent; after a failed turn the rest is unsent, and says so."""
    bodies: list[dict[str, list[dict[str, str]]]] = []

    def play(connection: socket.socket, number: int, body: bytes) -> bool:
        bodies.append(json.loads(body))
        connection.sendall(GOOD if number != 3 else REFUSED)
        return True

    work = Workload(turns=3, isl=Length("fixed", 20))
    with server(play) as url, working(tmp_path, url, one_by_one(2), work) as worker:
        rows = worker.rows()
    assert [(row.id, row.conversation, row.turn, row.status) for row in rows] == [
        (0, 0, 0, "ok"), (1, 0, 1, "ok"), (2, 0, 2, "ok"),
        (3, 1, 0, "http_error"), (4, 1, 1, "unsent"), (5, 1, 2, "unsent"),
    ]  # fmt: skip
    roles = [[message["role"] for message in body["messages"]] for body in bodies]
    assert roles == [["user"], ["user", "assistant", "user"], ["user", "assistant"] * 2 + ["user"], ["user"]]
    assert bodies[2]["messages"][:3] == bodies[1]["messages"]
    assert bodies[1]["messages"][1]["content"] == "xxx"


def test_what_is_not_finished_is_recorded(tmp_path: Path) -> None:
    """When the drain's time is over, streams that still run are censored; clients that leave on purpose say so."""

    def play(connection: socket.socket, _: int, __: bytes) -> bool:
        connection.sendall(CHUNKED + ROLE + TOKEN)
        connection.settimeout(60)
        return connection.recv(1) != b""  # until the client leaves

    load = Load(kind="constant", levels=[Level(20, 0.5)], drain=0.5)
    work = Workload(leave_share=0.5, osl=Length("fixed", 2), seed=3)
    with server(play) as url, working(tmp_path, url, load, work) as worker:
        rows = worker.rows()
    assert len(rows) == 10
    assert {row.status for row in rows} == {"censored", "left"}
    assert all((row.leave_after == 1) == (row.status == "left") for row in rows)
    assert all(row.chunks == 1 and row.t_close is not None for row in rows)


BURNS = """
import time
import gevent
def burn():
    while True:
        until = time.perf_counter() + 0.03
        while time.perf_counter() < until:
            pass
        gevent.sleep(0.001)
gevent.spawn(burn)
"""


def test_a_worker_that_burns_its_core_is_not_believed(tmp_path: Path) -> None:
    """With a loop that computes for 30 ms at a time in the worker, its own probe says that events are seen late."""

    def play(connection: socket.socket, _: int, __: bytes) -> bool:
        connection.sendall(GOOD)
        return True

    load = Load(kind="closed", levels=[Level(1, 2.5)], drain=5.0)
    with server(play) as url, working(tmp_path, url, load, before=BURNS) as worker:
        (ended,) = [message for message in worker.messages() if message["type"] == "ended"]
        rows = worker.rows()
    evidence = Evidence((msgspec.convert(ended, Ended),))
    plan = Plan(target=Target(url=url, model="m"), load=load, workload=Workload())
    check, reasons = selfcheck.examine(plan, rows, evidence, Window(0.0, 2.5))
    assert check.loop_lag_p99 > selfcheck.LAG_LIMIT_S
    assert any("late" in reason for reason in reasons)
