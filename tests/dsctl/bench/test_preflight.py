"""The first look at a server: what it accepts, and how it counts the text it is asked with."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from dsctl.base.errors import PreflightError, UsageError
from dsctl.bench.plan import Target
from dsctl.bench.preflight import Look
from dsctl.bench.wish import Wish
from tests.dsctl.bench.scripted import CHUNKED, chunk, server
from tests.dsctl.bench.test_answer import delta, frame

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]  # of a body: the status, and what follows the head


def stream(prompt_tokens: int | None, *, ends: bool = True) -> bytes:
    """A short answer with usage, where there is one, and [DONE], where it has that."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
    told = chunk(frame(delta(content="x"))) + chunk(frame(delta(finish_reason="stop")))
    told += chunk(frame({"choices": [], "usage": usage})) if prompt_tokens else b""
    return told + (chunk(frame("[DONE]")) if ends else b"") + b"0\r\n\r\n"


def looked(answer: Answer, **options: Any) -> Target:
    """What a look at such a server finds."""

    def play(connection: socket.socket, _: int, body: bytes) -> bool:
        if not body:
            connection.sendall(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
            return True
        status, told = answer(json.loads(body))
        head = b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n" % (status, len(told))
        connection.sendall(CHUNKED + told if status == 200 else head + told)
        return True

    with server(play) as url, Look(Wish(url=url, model="m", **options), url) as look:
        return look.target()


def words(body: dict[str, Any]) -> int:
    """Of the prompt, without the number it begins with."""
    return len(body["messages"][0]["content"].split()) - 1


@pytest.mark.parametrize("most", [10_000, 200])
def test_text_is_measured_in_the_servers_tokens(most: int) -> None:
    """Three tokens a word and seven around them are found, also where a prompt of 140 words is refused as too long."""

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        tokens = 3 * words(body) + 7
        return (200, stream(tokens)) if tokens <= most else (400, b"too long")

    found = looked(answer)
    assert (found.tokens_per_word, found.tokens_around) == (3.0, 7.0)
    assert found.sends_done


@pytest.mark.parametrize("field", ["stream_options", "ignore_eos", "priority"])
def test_what_is_refused_is_left_out(field: str) -> None:
    """A server that refuses one option is asked without it, and with the others; without [DONE] that is known too."""

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        return (400, b"unknown field") if field in body else (200, stream(None, ends=False))

    found = looked(answer, priority="high=0:1")
    takes = {
        "stream_options": found.takes_usage, "ignore_eos": found.takes_ignore_eos, "priority": found.takes_priority
    }  # fmt: skip
    assert takes == {name: name != field for name in takes}
    assert not found.sends_done


@pytest.mark.parametrize(
    ("status", "told", "error", "word"),
    [
        (401, b"who?", UsageError, "api-key-env"), (500, b"broken", PreflightError, "--model"),
        (200, b"0\r\n\r\n", PreflightError, "without a token"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_serve_is_no_target(status: int, told: bytes, error: type[Exception], word: str) -> None:
    """No key, an error, or an answer without a token: refused before any load, with a way on."""
    with pytest.raises(error) as caught:
        looked(lambda _: (status, told))
    assert word in f"{caught.value} {getattr(caught.value, 'hint', '')}"
