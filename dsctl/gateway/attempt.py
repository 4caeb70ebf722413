"""One attempt at a request on one replica: reads its events, hands data on, and ends in exactly one `Ending`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from dsctl.gateway.events import History, MetaLine, decode_meta
from dsctl.gateway.replica import Replica
from dsctl.gateway.settings import MAX_LINE, PAUSE_BYTES
from dsctl.gateway.upstream import Connection
from engine.spec.attempt import Failure, Usage

Kind = Literal["done", "refused", "busy", "failed", "broken", "stale"]
_HEARTBEAT = b": hb"


class Ending(msgspec.Struct, frozen=True):
    """How an attempt ended: `broken` may be tried again, `refused` and `failed` are final, `busy` is neutral."""

    kind: Kind
    cause: str = ""
    status: int = 0
    body: bytes = b""
    retry_after: int | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    blame: bool = False  # the replica answered wrongly (5xx, malformed), as opposed to having died


class Sink(Protocol):
    """Where data lines go."""

    @property
    def has_output(self) -> bool:
        """Something waits to be sent to the client."""
        ...

    @property
    def pending_bytes(self) -> int:
        """How much."""
        ...

    def feed(self, data: bytes) -> None:
        """Take one data line, without its line end."""
        ...


class Attempt:
    """The receiver of one answer. `ending` is set once; after that nothing of this attempt is handed on."""

    __slots__ = (
        "_body", "_connection", "_headers", "_held", "_rest", "_status", "_wake", "ending", "history", "is_paused",
        "lost", "number", "on_token", "quiet_ticks", "replica", "sink",
    )  # fmt: skip

    def __init__(self, replica: Replica, number: int, history: History, sink: Sink, wake: Callable[[], None]) -> None:
        self.replica = replica
        self.number = number
        self.history = history
        self.sink = sink
        self.on_token: Callable[[int], None] = _ignore
        self.ending: Ending | None = None
        self.lost = False
        self.quiet_ticks = 0
        self.is_paused = False
        self._wake = wake
        self._connection: Connection | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._rest = b""
        self._held: list[bytes] = []

    @property
    def has_head(self) -> bool:
        """The replica began to answer."""
        return self._status != 0

    def start(self, connection: Connection, request: bytes) -> None:
        """Send the request."""
        self._connection = connection
        self.replica.attempts.add(self)
        connection.send(self, request)

    def abort(self) -> None:
        """Drop the connection: the replica frees the sequence, and nothing of it is read any more."""
        self.end(Ending("broken", "left by the gateway"), wake=False)

    def end(self, ending: Ending, *, wake: bool = True) -> None:
        """End this attempt from outside or inside; closes its connection unless the answer is whole."""
        if self.ending is not None:
            return
        self.ending = ending
        self._held.clear()
        self.replica.attempts.discard(self)
        if self._connection is not None and ending.kind != "done":
            self._connection.abort()
            self._connection = None
        if wake:
            self._wake()

    def pause(self) -> None:
        """Stop reading from the replica."""
        if self._connection is not None and not self.is_paused:
            self.is_paused = True
            self._connection.pause()

    def resume(self) -> None:
        """Read on after `pause`."""
        if self._connection is not None and self.is_paused:
            self.is_paused = False
            self._connection.resume()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Connection: status and headers."""
        self._status = status
        self._headers = headers
        self.quiet_ticks = 0
        self.replica.health.silent = 0

    def on_body(self, data: bytes) -> None:
        """Connection: a piece of the stream, or of an error's body."""
        self.quiet_ticks = 0
        self.replica.health.silent = 0
        if self._status != 200:
            self._body += data[: MAX_LINE - len(self._body)]
            return
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._keep(data)
            return
        self._keep(data[end + 2 :])
        for block in data[:end].split(b"\n\n"):
            if self.ending is not None:
                return
            if block != _HEARTBEAT:
                self._event(block)
        if self.sink.has_output:
            self._wake()
            if self.sink.pending_bytes > PAUSE_BYTES:
                self.pause()

    def on_complete(self) -> None:
        """Connection: the answer is whole."""
        self._connection = None
        if self._status == 200:
            self.end(Ending("broken", "the stream ended without its terminal event", blame=True))
            return
        retry_after = self._headers.get(b"retry-after", b"")
        seconds = int(retry_after) if retry_after.isdigit() else None
        if self._status in (429, 503):
            self.end(Ending("busy", f"answered {self._status}", self._status, self._body, seconds or 1))
        elif 400 <= self._status < 500:
            self.end(Ending("refused", f"answered {self._status}", self._status, self._body, seconds))
        else:
            self.end(Ending("broken", f"answered {self._status}", blame=True))

    def on_broken(self, cause: str) -> None:
        """Connection: it ended first."""
        connection, self._connection = self._connection, None
        stale = self._status == 0 and connection is not None and connection.used
        if not stale and self.ending is None:
            self.replica.health.doubt(cause)
        self.end(Ending("stale" if stale else "broken", cause))

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        if len(rest) > MAX_LINE:
            self._malformed(f"an event longer than {MAX_LINE} bytes")

    def _malformed(self, what: str) -> None:
        self.end(Ending("broken", f"malformed stream: {what}", blame=True))

    def _event(self, block: bytes) -> None:
        head, _, data = block.partition(b"\n")
        if head.startswith(b"data: "):
            head, data = b":{}", block
        elif not head.startswith(b":{"):
            self._malformed("a line that is neither Meta nor data")
            return
        if data and (not data.startswith(b"data: ") or b"\n" in data):
            self._malformed("data that is not one line")
            return
        try:
            meta = decode_meta(head[1:])
        except (msgspec.DecodeError, ValueError):
            self._malformed("a Meta line that cannot be read")
            return
        if meta.t or meta.f is not None:
            self._tokens(meta, data)
        else:
            self._notice(meta, data)

    def _notice(self, meta: MetaLine, data: bytes) -> None:
        """An event without ids."""
        if meta.end is not None:
            if self._release(data):
                self.end(Ending("done", usage=meta.end))
        elif meta.lost is not None:
            self.lost = True
            self._wake()
        elif meta.error is not None:
            self._error(meta.error)
        elif data:
            self._held.append(data)

    def _tokens(self, meta: MetaLine, data: bytes) -> None:
        if not self.history.accepts(meta):
            self._malformed(f"tokens for choice {meta.c}, which does not exist or has ended")
            return
        if (self._held or data) and not self._release(data):
            return
        self.history.add(meta)
        self.lost = False
        self.on_token(len(meta.t))

    def _release(self, data: bytes) -> bool:
        # Data without ids (role chunks, usage) waits for the ids that follow it: a continuation never has to guess
        # whether the client has it.
        try:
            for held in self._held:
                self.sink.feed(held)
            self._held.clear()
            if data:
                self.sink.feed(data)
        except (msgspec.DecodeError, ValueError, TypeError, AttributeError):
            self._malformed("data that is not a chunk")
            return False
        return True

    def _error(self, failure: Failure) -> None:
        if failure.retryable and failure.status in (429, 503):
            self.end(Ending("busy", failure.message, failure.status, retry_after=1))
            return
        kind: Kind = "broken" if failure.retryable else "failed"
        self.end(Ending(kind, failure.message, failure.status, failure=failure, blame=failure.retryable))


def _ignore(_: int) -> None:
    """Nobody counts tokens yet."""
