"""The answer of a client that does not stream, put together from the chunks of a stream."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from engine.spec.attempt import Usage

OBJECTS = {"chat": "chat.completion", "completions": "text_completion", "inference": "inference"}
_JOINED = frozenset({"text", "content", "reasoning_content", "reasoning"})
_REPEATED = frozenset({"prompt_token_ids", "prompt_logprobs"})  # the same in every chunk that has them
_MESSAGE = {"role": "assistant", "content": "", "reasoning_content": None, "reasoning": None}
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Whole:
    """Takes data lines and becomes one object: strings and lists of a choice are joined, other values replaced."""

    def __init__(self, route: str) -> None:
        self._route = route
        self._envelope: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def feed(self, data: bytes) -> None:
        """Take one `data: …` line; raises msgspec.DecodeError when it is not a JSON object."""
        payload = data[6:]
        if payload == b"[DONE]":
            return
        chunk = _decode(payload)
        choices = chunk.pop("choices", None)
        chunk.pop("usage", None)
        if choices is None:  # an inference chunk: the one choice is the object itself
            choices = [{"index": 0, "text": chunk.pop("text", ""), "finish_reason": chunk.pop("finish_reason", None)}]
        for key, value in chunk.items():
            if self._envelope.get(key) is None:
                self._envelope[key] = value
        for choice in choices:
            _join(self._choices.setdefault(choice.get("index", 0), {}), choice)

    def result(self, usage: Usage) -> dict[str, Any]:
        """The object to answer with."""
        answer = {**self._envelope, "object": OBJECTS[self._route]}
        choices = [self._choices[index] for index in sorted(self._choices)]
        if self._route == "inference":
            return {**answer, **_inference(choices), "usage": usage.for_clients()}
        for choice in choices:
            choice.setdefault("finish_reason", None)
            choice.setdefault("logprobs", None)
            if self._route == "chat":
                message = choice.pop("delta", {})
                choice["message"] = {**_MESSAGE, **message}
            else:
                choice.setdefault("text", "")
        return {**answer, "choices": choices, "usage": usage.for_clients()}


def _inference(choices: list[dict[str, Any]]) -> dict[str, Any]:
    choice = choices[0] if choices else {}
    delta = cast("dict[str, Any]", choice.get("delta") or {})
    text = choice.get("text") or delta.get("content") or ""
    return {"text": text, "finish_reason": choice.get("finish_reason")}


def _join(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add a chunk's choice to what there is; `more` may become part of it."""
    for key, value in more.items():
        had = into.get(key)
        if had is None:
            into[key] = value
        elif isinstance(value, str):
            into[key] = had + value if key in _JOINED else value
        elif isinstance(value, dict):
            _join(had, cast("dict[str, Any]", value))
        elif isinstance(value, list) and key not in _REPEATED:
            cast("list[Any]", had).extend(cast("list[Any]", value))
        elif value is not None:
            into[key] = value
