"""The client's end of a request: an SSE stream, or one JSON object at the end."""

from __future__ import annotations

import time

import msgspec

from dsctl.gateway.asgi import Headers, Send
from dsctl.gateway.refusal import RefusedError
from dsctl.gateway.upload import Upload
from dsctl.gateway.whole import Whole
from engine.spec.attempt import Usage

SSE_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
VALID_COMMENT = b": continuation valid\n\n"


class StreamSink:
    """Forwards data lines as they are. `writing_since` is set while the client is slower than we are."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self.is_started = False
        self.pending_bytes = 0
        self.writing_since = 0.0
        self.last_write = time.monotonic()
        self._send = send
        self._headers = headers
        self._pending: list[bytes] = []

    @property
    def has_output(self) -> bool:
        """Something waits to be sent."""
        return self.pending_bytes > 0

    def feed(self, data: bytes) -> None:
        """Take one data line, without its line end."""
        self._pending.append(data)
        self.pending_bytes += len(data) + 2

    async def flush(self) -> None:
        """Send what waits."""
        await self._write(self._take(), more=True)

    async def heartbeat(self) -> None:
        """Send a comment, so that nobody between here and the client takes silence for death."""
        await self._write(b": hb\n\n", more=True)

    async def label_valid(self) -> None:
        """Tell a reader of the raw stream that what follows is a valid continuation, not the identical one."""
        await self._write(self._take() + VALID_COMMENT, more=True)

    async def finish(self, usage: Usage) -> None:
        """Send what waits and end the stream."""
        await self._write(self._take(), more=False)

    async def fail(self, refusal: RefusedError) -> None:
        """Say why it cannot go on: an HTTP status if nothing was sent, else an error event without [DONE]."""
        if not self.is_started:
            await send_refusal(self._send, refusal, self._headers)
            return
        body = refusal.body()
        await self._write(self._take() + b"data: " + body.replace(b"\n", b" ") + b"\n\n", more=False)

    def _take(self) -> bytes:
        if not self._pending:
            return b""
        data = b"\n\n".join(self._pending) + b"\n\n"
        self._pending.clear()
        self.pending_bytes = 0
        return data

    async def _write(self, data: bytes, *, more: bool) -> None:
        self.last_write = self.writing_since = time.monotonic()
        if not self.is_started:
            self.is_started = True
            headers = SSE_HEADERS + self._headers
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.writing_since = 0.0


class WholeSink:
    """Collects chunks and answers once."""

    has_output = False
    pending_bytes = 0

    def __init__(self, send: Send, headers: Headers, route: str) -> None:
        self.is_started = False
        self.writing_since = 0.0
        self.last_write = time.monotonic()
        self._send = send
        self._headers = headers
        self._whole = Whole(route)
        self._is_valid_only = False

    def feed(self, data: bytes) -> None:
        """Take one data line; raises msgspec.DecodeError when it is not JSON."""
        self._whole.feed(data)

    async def flush(self) -> None:
        """Nothing is sent before the end."""

    async def heartbeat(self) -> None:
        """A JSON answer has no comments."""

    async def label_valid(self) -> None:
        """The label goes into a header of the answer."""
        self._is_valid_only = True

    async def finish(self, usage: Usage) -> None:
        """Send the object."""
        body = msgspec.json.encode(self._whole.result(usage))
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self._headers,
        ]
        if self._is_valid_only:
            headers.append((b"x-dsctl-continuation", b"valid"))
        self.is_started = True
        self.writing_since = time.monotonic()
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.writing_since = 0.0

    async def fail(self, refusal: RefusedError) -> None:
        """Say why not."""
        await send_refusal(self._send, refusal, self._headers)


async def send_refusal(send: Send, refusal: RefusedError, headers: Headers, unread: Upload | None = None) -> None:
    """Answer with an error object; then let a client that still sends come to its end, so that it reads the answer."""
    body = refusal.body()
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [*refusal.headers(), (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await unread.swallow()
        await send({"type": "http.response.body", "body": b""})
