"""A small HTTP/1.1 server side over httptools: enough for a replica's contract, and quick to start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import httptools

PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 500: "Error", 503: "Unavailable"}


class Open(Protocol):
    """An answer that is still being written."""

    def heartbeat(self, beat: int) -> None:
        """Time passes."""
        ...

    def gone(self) -> None:
        """The other side left."""
        ...


class Peer(asyncio.Protocol):
    """One client connection; requests are handled one after another."""

    def __init__(self, handle: Callable[[Peer], None], peers: set[Peer]) -> None:
        self._handle = handle
        self._peers = peers
        self._parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.method = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.answer: Open | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self._peers.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed."""
        self._peers.discard(self)
        if self.answer is not None:
            answer, self.answer = self.answer, None
            answer.gone()

    def on_message_begin(self) -> None:
        """A new request."""
        self.path, self.headers, self.body = "", {}, b""

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.method = self._parser.get_method().decode()
        self.path = self.path.partition("?")[0]
        self._handle(self)

    def reply(self, status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> None:
        """Send a whole answer."""
        head = (
            f"HTTP/1.1 {status} {PHRASES.get(status, 'Status')}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\n{extra}\r\n"
        )
        self._write(head.encode("latin-1") + body)

    def start_stream(self) -> None:
        """Send the head of a stream."""
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    def write_chunk(self, data: bytes) -> None:
        """Send a piece of a stream."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """End a stream; the connection stays open."""
        self.answer = None
        self._write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Close the connection at once."""
        self.answer = None
        if self.transport is not None:
            self.transport.close()

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
