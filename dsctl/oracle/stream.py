"""One answer of the oracle on its way out: Meta lines, data lines, heartbeats, and the faults that befall a stream."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

import msgspec

from dsctl.oracle.engine import Choice, Engine, Sequence, Wish
from dsctl.oracle.faults import STREAM_KINDS, Fault
from dsctl.oracle.record import Record
from dsctl.oracle.replies import REASONING_TOKENS, Shape, encode, usage_of
from dsctl.oracle.wire import Peer


class AttemptBody(msgspec.Struct):
    """What the oracle reads of engine.spec.attempt.Attempt."""

    route: str
    id: str
    created: int
    seed: int
    attempt: int
    body: dict[str, Any]
    deadline_ms: int | None = None
    resume: dict[str, Any] | None = None


def wish_of(attempt: AttemptBody) -> Wish:
    """Seed, length and choices of an attempt, with what the client already has of each choice."""
    body = attempt.body
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    seed = body.get("seed")
    wish = Wish(
        seed=int(attempt.seed if seed is None else seed),
        max_tokens=int(16 if limit is None else limit),
        ignore_eos=bool(body.get("ignore_eos")),
        choices=[Choice(index) for index in range(int(body.get("n") or 1))],
    )
    for had in cast("list[dict[str, Any]]", (attempt.resume or {}).get("choices", [])):
        choice = wish.choices[int(had["index"])]
        choice.count, choice.finished = len(had["ids"]), had.get("finished")
    return wish


def prompt_tokens(body: dict[str, Any]) -> int:
    """A count that depends on the prompt alone."""
    prompt = body.get("prompt", body.get("text", body.get("messages", "")))
    return max(1, len(encode(prompt)) // 4)


class Stream:
    """An attempt being served (listener of its sequence)."""

    def __init__(self, attempt: AttemptBody, peer: Peer, engine: Engine, record: Record) -> None:
        self.attempt = attempt
        self.shape = Shape(attempt.route, attempt.id, attempt.created, attempt.body)
        self.wish = wish_of(attempt)
        self.sent_at_beat = 0
        self._peer = peer
        self._engine = engine
        self._record = record
        self._sequence: Sequence | None = None
        self._tokens = 0
        self._muted = False
        self._done = False
        resume = attempt.resume or {}
        self._cached = resume.get("cached_tokens")
        self._opened = bool(resume.get("role_sent"))

    def start(self) -> None:
        """Send the head and the opening chunks, then hand the sequence to the engine."""
        early = self._engine.switches.take(STREAM_KINDS, -1)
        if early is not None and not self._suffer(early):
            return
        self._record.started(self.attempt, [choice.count for choice in self.wish.choices])
        self._peer.start_stream()
        if not self._opened:
            for choice in self.wish.choices:
                chunk = self.shape.opening(choice.index)
                if chunk is not None:
                    self._send({"c": choice.index, "t": []}, chunk)
        if all(choice.finished for choice in self.wish.choices):
            self.on_end()
        else:
            self._sequence = self._engine.submit(self.wish, self)

    def on_token(self, choice: Choice, position: int, token: int) -> bool:
        """Send one token, or what a fault makes of it."""
        fault = self._engine.switches.take(STREAM_KINDS, self._tokens)
        if fault is not None and not self._suffer(fault):
            return False
        if fault is not None and fault.kind == "lost":
            choice.count, choice.finished = position, None  # this token is lost with the core and comes again
            return True
        self._tokens += 1
        meta: dict[str, Any] = {"c": choice.index, "t": [token]}
        if self._cached is None and choice.index == 0:
            meta["cached"] = self._cached = 0
        if choice.finished:
            meta["f"] = choice.finished
        self._send(meta, self.shape.chunk(choice.index, position, token, choice.finished))
        return True

    def on_end(self) -> None:
        """Send usage and the terminal event."""
        body = self.attempt.body
        completion = sum(choice.count for choice in self.wish.choices)
        prompt = prompt_tokens(body)
        options = cast("dict[str, Any]", body.get("stream_options") or {})
        if body.get("stream") and options.get("include_usage"):
            self._send({"t": []}, self.shape.usage_chunk(usage_of(prompt, completion, self._cached or 0)))
        reasoning = sum(min(c.count, REASONING_TOKENS) for c in self.wish.choices) if self.shape.reasons else 0
        end = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cached_tokens": self._cached or 0,
            "reasoning_tokens": reasoning,
        }
        self._write(b":" + encode({"end": end}) + b"\ndata: [DONE]\n\n")
        self._close("done")
        self._peer.end_stream()

    def heartbeat(self, beat: int) -> None:
        """Send a heartbeat when nothing was sent for two beats."""
        if beat - self.sent_at_beat >= 2 and not self._done:
            self._write(b": hb\n\n")
            self.sent_at_beat = beat

    def gone(self) -> None:
        """The other side closed the connection."""
        self._close("aborted")

    def _suffer(self, fault: Fault) -> bool:
        """Let a fault befall this stream; True when the stream goes on."""
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "lost":
            self._engine.lose_core(fault.value / 1000)
            self._write(b":" + encode({"lost": {"epoch": self._engine.epoch, "cause": "core lost (fault)"}}) + b"\n\n")
        elif fault.kind == "mute":
            self._muted = True
        elif fault.kind == "malformed":
            self._write(b':{"c":0,"t":[1,\ndata: {"broken"\n\n')
        elif fault.kind == "bigline":
            self._write(b":" + b"x" * int(fault.value or 10_000_000))
        else:
            if fault.kind == "truncate":
                self._write(b':{"c":0,"t":[12')
            self._close("broken")
            self._peer.end_stream() if fault.kind == "eof" else self._peer.cut()
            return False
        return True

    def _close(self, outcome: str) -> None:
        if self._done:
            return
        self._done = True
        if self._sequence is not None:
            self._engine.abort(self._sequence)
        self._record.ended(self.attempt, outcome, [choice.count for choice in self.wish.choices])

    def _send(self, meta: dict[str, Any], chunk: dict[str, Any]) -> None:
        self._write(b":" + encode(meta) + b"\ndata: " + encode(chunk) + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.sent_at_beat = self._engine.beat
        if not self._muted:
            self._peer.write_chunk(data)
