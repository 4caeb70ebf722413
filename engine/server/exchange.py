"""One HTTP request and its answer over ASGI: size caps, deadlines, and noticing at once that the client left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from engine.spec.errors import RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BODY_BYTES = 8 << 20
_MOST_DRAINED_BYTES = 64 << 20  # of a body that is too large, so that its sender reads the answer instead of a reset
BODY_DEADLINE_S = 30.0
WRITE_DEADLINE_S = 30.0


class ClientGoneError(Exception):
    """The client closed the connection or stopped reading; nobody waits for an answer."""


class Exchange:
    """Wraps one ASGI call. An answer is either one `answer_*` call or `start_stream`, `write`…, `end`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.has_started = False
        self.is_complete = False
        self.request_id = ""
        self._scope = scope
        self._receive = receive
        self._send = send

    def headers(self, name: bytes) -> list[bytes]:
        """All values of a header (name in lower case)."""
        return [value for key, value in self._scope["headers"] if key == name]

    async def body(self) -> bytes:
        """The request body. Raises RequestError 413 above the cap, 408 when it does not arrive, ClientGoneError."""
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                return await self._read_body()
        except TimeoutError:
            raise RequestError(
                f"the body did not arrive within {BODY_DEADLINE_S:.0f} s", status=408, code="request_timeout"
            ) from None

    async def _read_body(self) -> bytes:
        data = bytearray()
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size <= MOST_BODY_BYTES:
                data += chunk
            if not message.get("more_body") or size > _MOST_DRAINED_BYTES:
                break
        if size > MOST_BODY_BYTES:
            raise RequestError(f"the body is larger than {MOST_BODY_BYTES} bytes", status=413, code="request_too_large")
        return bytes(data)

    async def disconnected(self) -> None:
        """Returns when the client has left; call only after the body was read."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def answer_json(self, status: int, value: Any, extra: list[tuple[bytes, bytes]] | None = None) -> None:
        """A whole answer."""
        await self.answer_bytes(status, msgspec.json.encode(value), b"application/json", extra)

    async def answer_bytes(
        self, status: int, data: bytes, content_type: bytes, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """A whole answer of any type."""
        headers = [(b"content-type", content_type), (b"content-length", str(len(data)).encode()), *(extra or [])]
        await self._start(status, headers)
        self.is_complete = True
        await self._write({"type": "http.response.body", "body": b"" if self.method == "HEAD" else data})

    async def start_stream(self) -> None:
        """Begin a server-sent event stream."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._start(200, headers)

    async def write(self, data: bytes) -> None:
        """A piece of a stream. Raises ClientGoneError when the client takes nothing for too long."""
        await self._write({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        self.is_complete = True
        await self._write({"type": "http.response.body", "body": b""})

    def cut(self) -> None:
        """Drop the connection without waiting for what is still to be written."""
        transport = self._scope.get("extensions", {}).get("engine.transport", {}).get("transport")
        if transport is not None:
            transport.abort()

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        if self.request_id:
            headers.append((b"x-request-id", self.request_id.encode("ascii")))
        await self._write({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await self._send(message)
        except TimeoutError:
            self.cut()
            raise ClientGoneError from None
