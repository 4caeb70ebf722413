"""The oracle's answers to clients that come without a gateway: plain SSE, or one JSON object."""

from __future__ import annotations

import time
import uuid
from typing import Any, cast

from dsctl.oracle.engine import Choice, Engine, Sequence
from dsctl.oracle.replies import Shape, encode, usage_of
from dsctl.oracle.stream import AttemptBody, prompt_tokens, wish_of
from dsctl.oracle.tokens import text_of, token_at
from dsctl.oracle.wire import Peer

ROUTES = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/inference": "inference"}
BREAKING = frozenset({"truncate", "eof", "inerror"})
WHOLE = {"chat": "chat.completion", "completions": "text_completion", "inference": "inference"}


class Direct:
    """One request of a client, served as a replica serves it (listener of its sequence)."""

    def __init__(self, route: str, body: dict[str, Any], peer: Peer, engine: Engine) -> None:
        attempt = AttemptBody(route, f"oracle-{uuid.uuid4().hex[:16]}", int(time.time()), 0, 1, body)
        self._body = body
        self._streams = bool(body.get("stream"))
        self._shape = Shape(route, attempt.id, attempt.created, body)
        self._wish = wish_of(attempt)
        self._peer = peer
        self._engine = engine
        self._sequence: Sequence | None = None

    def start(self) -> None:
        """Open the stream if there is one, and hand the sequence to the engine."""
        if self._streams:
            self._peer.start_stream()
            for choice in self._wish.choices:
                if (chunk := self._shape.opening(choice.index)) is not None:
                    self._data(chunk)
            if self._engine.switches.take(frozenset({"empty"}), 0):
                self._peer.write_chunk(b"data: [DONE]\n\n")
                self._peer.end_stream()
                return
        self._sequence = self._engine.submit(self._wish, self)

    def on_token(self, choice: Choice, position: int, token: int) -> bool:
        """Send the token's chunk to a streaming client, or break its stream."""
        if self._streams:
            fault = self._engine.switches.take(BREAKING, position)
            if fault is not None:
                self._break(fault.kind)
                return False
            self._data(self._shape.chunk(choice.index, position, token, choice.finished))
        return True

    def on_end(self) -> None:
        """Send what closes the answer."""
        usage = usage_of(prompt_tokens(self._body), sum(choice.count for choice in self._wish.choices))
        if not self._streams:
            self._peer.answer = None
            self._peer.reply(200, encode({**self._whole(), "usage": usage}))
            return
        options = cast("dict[str, Any]", self._body.get("stream_options") or {})
        if options.get("include_usage"):
            self._data(self._shape.usage_chunk(usage))
        self._peer.write_chunk(b"data: [DONE]\n\n")
        self._peer.end_stream()

    def heartbeat(self, beat: int) -> None:
        """Clients get none."""

    def gone(self) -> None:
        """The client left."""
        if self._sequence is not None:
            self._engine.abort(self._sequence)

    def _break(self, kind: str) -> None:
        """End the stream as a failing server does."""
        if kind == "inerror":
            self._data({"error": {"message": "an error (fault)", "type": "error", "code": "internal"}})
        elif kind == "truncate":
            self._peer.write_chunk(b'data: {"choices": [{"index"')
        self._peer.cut() if kind == "truncate" else self._peer.end_stream()

    def _data(self, chunk: dict[str, Any]) -> None:
        self._peer.write_chunk(b"data: " + encode(chunk) + b"\n\n")

    def _whole(self) -> dict[str, Any]:
        shape, choices = self._shape, list[dict[str, Any]]()
        envelope = {**shape.envelope, "object": WHOLE[shape.route]}
        for choice in self._wish.choices:
            ids = [token_at(self._wish.seed, choice.index, position) for position in range(choice.count)]
            if shape.route == "inference":
                return {**envelope, "text": text_of(ids), "finish_reason": choice.finished}
            body: dict[str, Any] = {"index": choice.index, "finish_reason": choice.finished}
            if shape.route == "chat":
                body["message"] = {"role": "assistant", "content": text_of(ids)}
            else:
                body["text"] = text_of(ids)
            choices.append(body)
        return {**envelope, "choices": choices}
