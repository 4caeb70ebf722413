"""One streamed answer as it arrives: bytes in, token events with their times out; knows nothing of sockets."""

from __future__ import annotations

from typing import Any, cast

import msgspec


class Function(msgspec.Struct):
    """The part of a tool call that is generated."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A piece of a tool call."""

    function: Function | None = None


class Delta(msgspec.Struct):
    """What a chat chunk adds."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    """One choice of a chunk, of chat (delta) or completions (text)."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    """Of the prompt's tokens."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """Of the answer's tokens."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """The server's own counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Chunk(msgspec.Struct):
    """What is read of one event; all else in it is skipped."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


class Answer:
    """Collects one answer; `feed` is the hot path (a few µs per token event).

    Bytes may be split anywhere: inside a character, a JSON text or a line end. Every event of one `feed` has the same
    time, because it arrived at once: tokens sent together show as gaps of 0, they are not spread.
    """

    __slots__ = (
        "_buffer", "_counted", "_data", "_last", "chunks", "content", "counts", "done", "error", "finish", "first",
        "gaps", "malformed", "text", "usage", "wants_text",
    )  # fmt: skip

    def __init__(self, *, wants_text: bool = False) -> None:
        self._buffer = b""
        self._data: bytes | None = None  # data lines of the event being read
        self._last = 0.0
        self._counted = 0  # completion tokens by the usage seen so far
        self.chunks = 0
        self.first: float | None = None
        self.content: float | None = None
        self.gaps: list[float] = []
        self.counts: list[int] = []
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.done = False
        self.error = ""
        self.malformed = ""
        self.wants_text = wants_text
        self.text: list[str] = []

    @property
    def last(self) -> float | None:
        """Time of the last token event."""
        return self._last if self.chunks else None

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of the body that arrived at `now`."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                part = line[6:] if line[5:6] == b" " else line[5:]
                self._data = part if self._data is None else self._data + b"\n" + part
            elif not line and self._data is not None:
                event, self._data = self._data, None
                self._event(event, now)

    def end(self, now: float) -> None:
        """The body is over: a last event without its empty line still counts."""
        if self._buffer or self._data is not None:
            self.feed(b"\n\n", now)

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode(data)
        except msgspec.MsgspecError as problem:
            self.malformed = self.malformed or f"{problem}: {data[:80]!r}"
            return
        if chunk.error is not None:
            self.error = self.error or _words(chunk.error)
        is_token = False
        for choice in chunk.choices:
            is_token = self._choice(choice, now) or is_token
        if chunk.usage is not None:
            is_token = self._count(chunk.usage, is_token, bool(chunk.choices))
        elif is_token:
            self._counted = -1  # not every event says its tokens
        if is_token:
            if self.first is None:
                self.first = now
            else:
                self.gaps.append(now - self._last)
            self._last = now
            self.chunks += 1

    def _choice(self, choice: Choice, now: float) -> bool:
        """True when the choice carries something generated."""
        if choice.finish_reason is not None:
            self.finish = choice.finish_reason
        delta = choice.delta
        text = choice.text if delta is None else delta.content
        if text:
            if self.content is None:
                self.content = now
            if self.wants_text:
                self.text.append(text)
            return True
        if delta is None:
            return False
        if delta.reasoning_content or delta.reasoning:
            return True
        return any(call.function and (call.function.arguments or call.function.name) for call in delta.tool_calls or ())

    def _count(self, usage: Usage, is_token: bool, has_choices: bool) -> bool:
        """Take the usage; True when the event counts as one with tokens (some come without text)."""
        self.usage = usage
        told = usage.completion_tokens or 0
        fresh = told - self._counted
        if self._counted >= 0 and has_choices and (fresh > 0 or is_token):
            self._counted = told
            self.counts.append(max(0, fresh))
            return True
        return is_token or (told > 0 and self.chunks == 0)


def _words(error: Any) -> str:
    """An error object as one short line."""
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
        told = f"{fields.get('code') or fields.get('type') or 'error'}: {fields.get('message', '')}"
    else:
        told = str(error)
    return told[:300]
