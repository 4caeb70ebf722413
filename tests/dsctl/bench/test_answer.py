"""Reading a stream: whatever the packets, the same events, counted once, at the time they came."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.bench.answer import Answer


def frame(value: Any, end: str = "\n\n") -> bytes:
    """One SSE event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}{end}".encode()


def delta(**fields: Any) -> dict[str, Any]:
    """A chat chunk."""
    finish = fields.pop("finish_reason", None)
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
}
STREAM = (
    frame(delta(role="assistant", content=""))
    + b": a comment\n\n"
    + frame(delta(reasoning_content="hm 🙂"))
    + frame(delta(content="é字"), "\r\n\r\n")
    + frame(delta(content="b"))
    + frame(delta(finish_reason="stop"))
    + frame(USAGE)
    + frame("[DONE]")
)


def read(*packets: bytes) -> Answer:
    """Packets at times 1, 2, 3 …"""
    answer = Answer(wants_text=True)
    for time, packet in enumerate(packets, 1):
        answer.feed(packet, float(time))
    answer.end(99.0)
    return answer


def facts(answer: Answer) -> tuple[Any, ...]:
    """What does not depend on time."""
    usage = answer.usage
    return (
        answer.chunks,
        answer.finish,
        answer.done,
        "".join(answer.text),
        usage and usage.completion_tokens,
        answer.error,
    )


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_packets_may_end_anywhere(cuts: list[int]) -> None:
    """Cut inside a character, a JSON text or a line end, or not at all: the same three token events."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    assert facts(read(*pieces)) == (3, "stop", True, "é字b", 3, "")


def test_one_byte_at_a_time() -> None:
    """The hardest cut of all."""
    assert facts(read(*[STREAM[i : i + 1] for i in range(len(STREAM))])) == (3, "stop", True, "é字b", 3, "")


def test_the_role_is_no_token_and_reasoning_is_one() -> None:
    """The first token is the first content or reasoning; visible content has a time of its own."""
    answer = read(
        frame(delta(role="assistant", content="")), frame(delta(role="assistant", content=None)),
        frame(delta(reasoning="x")), frame(delta(content="y")), frame(delta(content="z")),
    )  # fmt: skip
    assert (answer.first, answer.content, answer.last, answer.gaps) == (3.0, 4.0, 5.0, [1.0, 1.0])


@pytest.mark.parametrize("bundle", [1, 4, 16])
def test_events_of_one_packet_have_one_time(bundle: int) -> None:
    """Tokens that arrive together are not spread: gaps inside a packet are 0, between packets as they were."""
    packets = [frame(delta(content="t")) * bundle for _ in range(4)]
    answer = read(*packets)
    assert answer.chunks == 4 * bundle
    assert sorted(answer.gaps) == [0.0] * (4 * (bundle - 1)) + [1.0] * 3


def test_usage_on_every_chunk_counts_tokens() -> None:
    """Where each chunk tells its tokens, several in one chunk are seen; a first chunk with the prompt only is none."""

    def told(n: int, **fields: Any) -> bytes:
        return frame({**delta(**fields), "usage": {"prompt_tokens": 5, "completion_tokens": n}})

    answer = read(
        told(0, role="assistant", content=""), told(3, content="abc"), told(4, content="d"), told(6, content="ef")
    )
    assert (answer.chunks, answer.counts, answer.first) == (3, [3, 1, 2], 2.0)


def test_usage_at_the_end_alone_is_no_token() -> None:
    """A usage chunk after tokens changes no time; as the only sign of tokens it is the first."""
    answer = read(frame(delta(content="a")), frame(USAGE))
    assert (answer.chunks, answer.last) == (1, 1.0)
    lone = read(frame(delta(role="assistant")), frame(USAGE))
    assert (lone.chunks, lone.first) == (1, 2.0)


def test_completions_and_tool_calls_are_tokens_too() -> None:
    """Text of completions, and arguments of tool calls."""
    assert read(frame({"choices": [{"index": 0, "text": "a", "finish_reason": None}]})).chunks == 1
    call = {"index": 0, "function": {"arguments": '{"a"'}}
    assert read(frame(delta(tool_calls=[call])), frame(delta(tool_calls=[{"index": 0}]))).chunks == 1


def test_errors_and_nonsense_are_remembered() -> None:
    """An error object in the stream, and a frame that is no JSON."""
    assert "overloaded: no room" in read(frame({"error": {"code": "overloaded", "message": "no room"}})).error
    assert read(frame("{half")).malformed
    assert not read(b"event: ping\nid: 3\nretry: 5\n\n").malformed
