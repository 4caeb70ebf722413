"""NCCL's RAS server, faked at the socket: frozen and unequal is a hang, moving is not, silence is 'not checked'."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dsctl.base.missing import Missing
from dsctl.doctor import judge, live
from dsctl.doctor.model import Case
from dsctl.doctor.rules import catalogue
from dsctl.flows import checkup
from dsctl.reach import ras, vitals

DEADLINE_S = 30.0
Answer = Callable[[int], bytes]


def _status(counts: list[int], missing: tuple[int, ...] = ()) -> bytes:
    ranks = [
        {"rank": rank, "host": f"n{rank // 2}", "pid": 100 + rank, "collective_counts": {"AllReduce": {"n": count}}}
        for rank, count in enumerate(counts)
    ]
    gone = [{"rank": rank, "host": "n9", "considered_dead": True} for rank in missing]
    comm = {"hash": "0xaa", "size": len(counts) + len(gone), "ranks": ranks, "missing_ranks": gone}
    return json.dumps({"nccl_version": "2.30.7", "communicators": [comm]}).encode()


@contextmanager
def server(answer: Answer, *, format_reply: bytes = b"OK\n", is_mute: bool = False) -> Iterator[int]:
    """A RAS server on a free port: `answer` gives the status for the n-th question."""
    listener = socket.create_server(("127.0.0.1", 0))
    number = 0

    def serve() -> None:
        nonlocal number
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                if is_mute:
                    link.recv(1)
                    while link.recv(4096):
                        pass
                    continue
                _speak(link, answer(number), format_reply)
                number += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def _speak(link: socket.socket, status: bytes, format_reply: bytes) -> None:
    stream = link.makefile("rb")
    replies = {
        b"CLIENT PROTOCOL 2\n": b"SERVER PROTOCOL 2\n",
        b"TIMEOUT 5\n": b"OK\n",
        b"SET FORMAT json\n": format_reply,
    }
    for line in stream:
        if line == b"VERBOSE STATUS\n":
            link.sendall(status)
            return
        link.sendall(replies[line])


def _case(port: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, list[float]]:
    monkeypatch.setattr(vitals, "environment", lambda: {"NCCL_RAS_ADDR": f"localhost:{port}"})
    case, pauses = Case(), list[float]()
    checkup.look(case, pause=pauses.append)
    return case, pauses


def _words(case: Case) -> list[str]:
    return [f.cause for f in live.findings(case, "n0") if f.rule.id == "NCCL-RAS-MISSING"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (_status([7, 7, 7, 7]), _status([9, 9, 9, 9]), []),
        (_status([7, 7, 7, 6]), _status([9, 9, 8, 9]), []),
        (_status([7, 7, 7, 7]), _status([7, 7, 7, 7]), []),
        (_status([7, 7, 6, 7]), _status([7, 7, 6, 7]), ["rank 2 on n1 (pid 102) is behind"]),
        (_status([7, 7, 7, 7]), _status([7, 7, 7], (3,)), ["rank 3 on n9 does not answer"]),
    ],
    ids=["moving equal", "moving unequal", "idle", "frozen unequal", "missing rank"],
)
def test_two_answers(first: bytes, second: bytes, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only counts that differ and stand still between two answers, or missing ranks, are a finding."""
    with server(lambda n: (first, second)[n]) as port:
        case, pauses = _case(port, monkeypatch)
    assert pauses == [checkup.RAS_PAUSE_S]
    said = _words(case)
    assert len(said) == len(words)
    assert all(word in text for word, text in zip(words, said, strict=True))


@pytest.mark.parametrize("status", [b"", b"not json", b"[]", b"[" * 100_000])
def test_no_answer_is_not_checked(status: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nonsense leaves the rule not checked, with the reason."""
    with server(lambda _: status) as port:
        case, _ = _case(port, monkeypatch)
    (verdict,) = judge.verdicts(case, set(), [catalogue()["NCCL-RAS-MISSING"]])
    assert verdict.outcome == "not checked"
    assert "RAS" in verdict.why


def test_an_old_server_is_said() -> None:
    """A server that does not know the JSON format is named as too old."""
    with server(lambda _: b"", format_reply=b"ERROR unknown\n") as port:
        found = ras.ask(port=port)
    assert isinstance(found, Missing)
    assert "2.30" in found.reason


def test_a_mute_server_does_not_hold_the_doctor() -> None:
    """A server that never answers ends in Missing when the deadline passes."""
    with server(lambda _: b"", is_mute=True) as port:
        found = ras.ask(port=port, deadline_s=0.2)
    assert isinstance(found, Missing)
    assert "in time" in found.reason


def test_no_server_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a listener the rule does not apply; it is not 'clear'."""
    with server(lambda _: b"") as port:
        pass
    case, pauses = _case(port, monkeypatch)
    (verdict,) = judge.verdicts(case, set(), [catalogue()["NCCL-RAS-MISSING"]])
    assert (verdict.outcome, pauses) == ("not applicable", [])


def test_foreign_values_are_harmless() -> None:
    """Answers of another shape never crash the judge."""
    odd: list[Any] = [{}, {"communicators": 3}, {"communicators": [1, {"ranks": [{"rank": 0}], "missing_ranks": []}]}]
    for first in odd:
        for second in odd:
            assert live.findings(Case(facts={"ras": (first, second)}), "n0") == []
