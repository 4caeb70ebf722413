"""Makes absurd requests: valid bodies with fields replaced, removed, added or twisted, from a seed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

WEIRD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 2**70, -(2**63), 0.5, -0.0, 1e-300, 1e300, "", "x", "\x00",
    "🌍" * 50, "a" * 3000, [], [[]], [0], [-1], [2**40], ["x"], [None], [[1, 2], "x"], {}, {"a": 1}, {"1": 2},
    {"1": "x"}, {"type": "text"},
    [{"role": "user", "content": "x"}], [{"role": "user"}], [{"role": 1, "content": []}], ["x"] * 70, [1] * 700,
]  # fmt: skip
FIELDS = (
    "model", "prompt", "messages", "text", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "n", "best_of",
    "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "min_tokens",
    "logit_bias", "logprobs", "top_logprobs", "prompt_logprobs", "echo", "stream", "stream_options", "priority",
    "user", "metadata", "store", "tools", "tool_choice", "response_format", "chat_template_kwargs",
    "return_token_ids", "raw", "suffix", "nonsense",
)  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    "/v1/inference": {"text": "x", "max_tokens": 2},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}
GARBAGE = [
    b"",
    b"{",
    b"[1]",
    b'"x"',
    b"NaN",
    b"\xff\x00",
    b'{"prompt":"\\ud83d"}',
    b"{" * 5000,
    b'{"a":1e999}',
    b"\x00" * 100,
]


@dataclass(frozen=True, slots=True)
class Shot:
    """One request."""

    path: str
    data: bytes


def shots(seed: int, count: int) -> list[Shot]:
    """`count` requests, the same for the same seed."""
    rnd = random.Random(seed)
    return [_shot(rnd) for _ in range(count)]


def _shot(rnd: random.Random) -> Shot:
    path = rnd.choice(list(BASES))
    if rnd.random() < 0.1:
        return Shot(path, rnd.choice(GARBAGE))
    body = json.loads(json.dumps(BASES[path]))
    for _ in range(rnd.randint(1, 3)):
        field = rnd.choice(FIELDS)
        value = rnd.choice(WEIRD)
        if rnd.random() < 0.15:
            value = [value] * rnd.randint(0, 20)
        if rnd.random() < 0.1:
            value = {"include_usage": value, "x": value}
        body[field] = value
    body.setdefault("max_tokens", 2)
    if path.startswith("/v1/") and not isinstance(body["max_tokens"], int):
        body.setdefault("max_completion_tokens", 3)
    data = json.dumps(body).encode()
    if rnd.random() < 0.1:
        at = rnd.randrange(len(data))
        data = data[:at] + bytes([rnd.randrange(256)]) + data[at + 1 :]
    return Shot(path, data)
