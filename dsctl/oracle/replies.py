"""What a client sees of the oracle's tokens: chunks of the three routes, and the whole answers made of them."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from dsctl.oracle.tokens import STOP_EVERY, piece

_encode = msgspec.json.encode
OBJECTS = {"chat": "chat.completion.chunk", "completions": "text_completion", "inference": "inference.chunk"}
REASONING_TOKENS = 4  # with chat_template_kwargs {"thinking": true} this many tokens are reasoning


class Shape:
    """How the chunks of one request look: its route, envelope and optional fields."""

    def __init__(self, route: str, request_id: str, created: int, body: dict[str, Any]) -> None:
        self.route = route
        self.body = body
        self.envelope = {
            "id": request_id,
            "object": OBJECTS[route],
            "created": created,
            "model": str(body.get("model") or "oracle"),
        }
        kwargs = cast("dict[str, Any]", body.get("chat_template_kwargs") or {})
        self.reasons = route == "chat" and bool(kwargs.get("thinking"))
        self.logprobs = body.get("logprobs")
        self.token_ids = bool(body.get("return_token_ids"))

    def opening(self, choice: int) -> dict[str, Any] | None:
        """The chunk that opens a choice of a chat; other routes have none."""
        if self.route != "chat":
            return None
        delta = {"role": "assistant", "content": ""}
        return {**self.envelope, "choices": [{"index": choice, "delta": delta, "finish_reason": None}]}

    def chunk(self, choice: int, position: int, token: int, finish: str | None) -> dict[str, Any]:
        """The chunk of one token."""
        text = piece(token) if token % STOP_EVERY else ""
        if self.route == "inference":
            return {**self.envelope, "text": text, "finish_reason": finish}
        body: dict[str, Any] = {"index": choice, "finish_reason": finish}
        if self.route == "chat":
            name = "reasoning_content" if self.reasons and position < REASONING_TOKENS else "content"
            body["delta"] = {name: text}
        else:
            body["text"] = text
        if self.logprobs:
            body["logprobs"] = self._logprobs(text, token)
        if self.token_ids:
            body["token_ids"] = [token]
        return {**self.envelope, "choices": [body]}

    def _logprobs(self, text: str, token: int) -> dict[str, Any]:
        value = -(token % 100) / 100
        if self.route == "chat":
            return {"content": [{"token": text, "logprob": value, "bytes": None, "top_logprobs": []}]}
        return {"tokens": [text], "token_logprobs": [value], "top_logprobs": [{text: value}], "text_offset": [0]}

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk that closes a stream whose client asked for usage."""
        return {**self.envelope, "choices": [], "usage": usage}


def usage_of(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """Usage as clients see it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def encode(value: Any) -> bytes:
    """JSON bytes without spaces."""
    return _encode(value)
