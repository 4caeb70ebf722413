"""One admitted request: what the client sent, what the gateway decided about it, and how it is told to a replica."""

from __future__ import annotations

import random
import time
from typing import Any

import msgspec

from dsctl.gateway.refusal import RefusedError
from dsctl.gateway.replica import request_head
from engine.spec.attempt import GENERATE_PATH

ROUTES = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/inference": "inference"}
PREFIXES = {"chat": "chatcmpl", "completions": "cmpl", "inference": "inf"}
MAX_COUNTED = 128  # choices counted for placement
DEFAULT_TOKENS = 256  # assumed length of an answer whose client named none, for placement only
SEED_BITS = 53  # survives every JSON reader


class Peek(msgspec.Struct):
    """What the gateway reads of a body; the replica judges the rest, and the types of these too."""

    stream: Any = None
    n: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None


_peek = msgspec.json.Decoder(Peek).decode


class Call:
    """A parsed request."""

    __slots__ = (
        "body", "cost", "created", "deadline", "gate", "id", "key", "request_id", "route", "seed", "streams",
    )  # fmt: skip

    def __init__(self, route: str, body: bytes, key: str, request_id: str) -> None:
        try:
            peek = _peek(body)
            str(body, "utf-8")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RefusedError(400, "invalid_json", f"the body is not a JSON object: {error}") from None
        self.route = route
        self.body = body
        self.key = key
        self.request_id = request_id
        self.id = f"{PREFIXES[route]}-{random.getrandbits(128):032x}"
        self.created = int(time.time())
        self.seed = random.getrandbits(SEED_BITS)
        self.streams = peek.stream is True
        self.gate = ""  # the only replica that may serve it
        self.deadline = 0.0  # monotonic; 0: none
        choices = peek.n if isinstance(peek.n, int) and 1 <= peek.n <= MAX_COUNTED else 1
        self.cost = len(body) // 4 + choices * _length(peek)

    def request(self, host: str, token: str, attempt: int, resume: bytes | None) -> bytes:
        """The bytes of POST /internal/v1/generate: the client's body goes into the envelope verbatim."""
        parts = [
            b'{"route":"%b","id":"%b","created":%d,"seed":%d,"attempt":%d'
            % (self.route.encode(), self.id.encode(), self.created, self.seed, attempt)
        ]
        if self.deadline:
            parts.append(b',"deadline_ms":%d' % max(1, int((self.deadline - time.monotonic()) * 1000)))
        if resume is not None:
            parts += [b',"resume":', resume]
        parts += [b',"body":', self.body, b"}"]
        body = b"".join(parts)
        extra = f"content-type: application/json\r\nx-request-id: {self.request_id}\r\ncontent-length: {len(body)}\r\n"
        return request_head("POST", GENERATE_PATH, host, token, extra) + body


def _length(peek: Peek) -> int:
    for value in (peek.max_completion_tokens, peek.max_tokens):
        if isinstance(value, int) and value > 0:
            return min(value, 1 << 14)
    return DEFAULT_TOKENS
