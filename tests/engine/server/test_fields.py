"""Every field is served, or refused by name; nothing is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.server.programs import Server

PROMPT: dict[str, Any] = {"prompt": "x", "max_tokens": 1}
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "required"},
        {"guided_json": {}},
        {"suffix": "y"},
        {"no_such_field": 1},
        {"store": True},
        {"best_of": 2},
    ],
)
def test_unserved_fields_are_named(server: Server, field: dict[str, Any]) -> None:
    """A field that is not served is a 400 `unsupported_parameter` whose param is the field."""
    for path, body in (("/v1/completions", PROMPT), ("/v1/chat/completions", MESSAGES)):
        answer = server.post(path, {**body, **field})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", next(iter(field)))


@pytest.mark.parametrize(
    "field",
    [
        {"tools": []},
        {"tools": None},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"user": "u", "metadata": {"a": "b"}, "store": False},
        {"logit_bias": None, "stop": None, "n": None, "seed": None},
        {"stop": []},
        {"no_such_field": None},
        {"max_tokens": 2.0},
        {"temperature": 0, "top_p": 1, "top_k": -1},
    ],
)
def test_harmless_defaults_pass(server: Server, field: dict[str, Any]) -> None:
    """Values that ask for nothing are accepted: clients send them by default."""
    assert server.post("/v1/completions", {**PROMPT, **field}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", "hot"), ("temperature", True), ("temperature", 1e308),
        ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("min_p", 2), ("n", 0), ("n", 9), ("n", 1.5),
        ("max_tokens", -1), ("max_tokens", 2**70), ("max_tokens", "1"), ("min_tokens", 2),
        ("presence_penalty", 2.1), ("frequency_penalty", -3), ("repetition_penalty", 0), ("seed", 2**64),
        ("logprobs", 21), ("logprobs", -1), ("prompt_logprobs", 21), ("stop", ""), ("stop", ["a"] * 17),
        ("stop", "a" * 257), ("stop", [1]), ("stop", {"a": 1}), ("stop_token_ids", [262]), ("stop_token_ids", [-1]),
        ("stop_token_ids", "1"), ("logit_bias", {"262": 1}), ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}),
        ("logit_bias", [1]), ("stream", "yes"), ("stream_options", {"include_usage": True}), ("priority", 1.5),
        ("prompt", []), ("prompt", [[]]), ("prompt", [262]), ("prompt", [-1]), ("prompt", [1, "a"]),
        ("prompt", [True]), ("prompt", {"a": 1}), ("prompt", None), ("prompt", [["a"]]), ("prompt", ["a"] * 65),
        ("prompt", [2**80]), ("model", 3), ("user", 3), ("metadata", "x"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(server: Server, name: str, value: Any) -> None:
    """A wrong type or a value out of range is a 400 that names the field."""
    answer = server.post("/v1/completions", {**PROMPT, name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name), answer.text


@pytest.mark.parametrize(
    "messages",
    [
        None, [], "x", [1], [{}], [{"role": "wizard", "content": "x"}], [{"role": "user", "content": 1}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}],
        [{"role": "user", "content": [{"type": "text"}]}], [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": "x", "tool_calls": [{}]}], [{"role": "user", "content": "x"}] * 2049,
    ],
)  # fmt: skip
def test_wrong_messages(server: Server, messages: Any) -> None:
    """Malformed or unserved messages are a 400 about `messages`; no address in them is ever fetched."""
    answer = server.post("/v1/chat/completions", {"messages": messages})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_text_parts_are_joined(server: Server) -> None:
    """Content given as text parts is the joined text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"temperature": 0, "max_tokens": 8}
    joined = server.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": "ab"}]}).json()
    given = server.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": parts}]}).json()
    assert given["choices"][0]["message"] == joined["choices"][0]["message"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b'{"prompt": NaN}', 400), (b"\xff\xfe", 400),
        (b'{"prompt": "\xff"}', 400), (b'{"prompt": "\\ud800"}', 400), (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400), (b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", 400),
        (b'{"prompt":"x","temperature":1e999}', 400), (b'{"prompt":"' + b"x" * (9 << 20) + b'"}', 413),
        (b'{"prompt":"' + b"x" * (7 << 20) + b'"}', 400),
        (b'{"prompt":"x","logit_bias":{' + b",".join(b'"%d":1' % n for n in range(40_000)) + b"}}", 400),
        (b'{"prompt":"x","user":"' + b"x" * (1 << 20) + b'"}', 400), (b"[" + b"1," * 200_000 + b"1]", 400),
    ],
)  # fmt: skip
def test_absurd_bodies(server: Server, data: bytes, status: int) -> None:
    """Bodies that are no JSON object, too deep, too large or not UTF-8 are 4xx with an error object."""
    answer = server.http.post(server.url + "/v1/completions", content=data)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_too_long_has_numbers(server: Server) -> None:
    """A request that does not fit says how long it is and what would fit."""
    long = server.post("/v1/completions", {"prompt": [1] * 600, "max_tokens": 1}).json()["error"]
    wide = server.post("/v1/completions", {"prompt": [1] * 500, "max_tokens": 100}).json()["error"]
    assert (long["code"], wide["code"]) == ("context_length_exceeded",) * 2
    assert "600" in long["message"]
    assert "512" in long["message"]
    assert "12 tokens" in wide["message"]
