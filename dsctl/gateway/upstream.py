"""HTTP/1.1 to a replica: kept-alive connections whose bytes go straight to the one who waits for them.

A connection is a protocol over httptools, without stream reader, task or timer per request: measured beside a pooled
client session it halves the cost of a short request and of a token event (benchmarks/gateway_cost.py).
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol
from urllib.parse import urlsplit

import httptools

IDLE_S = 4.0  # servers commonly close idle connections after 5 s
MAX_IDLE = 256


class Receiver(Protocol):
    """Who waits for an answer."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers came."""
        ...

    def on_body(self, data: bytes) -> None:
        """A piece of the body came."""
        ...

    def on_complete(self) -> None:
        """The answer is whole."""
        ...

    def on_broken(self, cause: str) -> None:
        """The connection ended before the answer did."""
        ...


class Connection(asyncio.Protocol):
    """One connection; serves one receiver at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self.idle_since = 0.0
        self.used = False  # served an answer before: it may have gone stale

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, receiver: Receiver, data: bytes) -> None:
        """Send a whole request; its answer goes to `receiver`."""
        self._receiver = receiver
        self._headers = {}
        self._pieces.clear()
        if self._transport is None or self._transport.is_closing():
            self._break("the connection was closed")
        else:
            self._transport.write(data)

    def pause(self) -> None:
        """Read no further until `resume`: the client is slower than the replica."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; the receiver hears nothing more."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Fit for a request."""
        return self._transport is not None and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Bytes from the replica."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"not an HTTP answer: {error}")
        if self._pieces:
            self._hand_on()

    def _hand_on(self) -> None:
        """Give the receiver what one read brought, however many chunks it came in."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._receiver is not None:
            self._receiver.on_body(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by either side."""
        self._pool.forget(self)
        self._break(f"connection lost: {exc}" if exc else "connection closed")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: one header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Parser: the head is whole."""
        if self._receiver is not None:
            self._receiver.on_head(self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        """Parser: a piece of the body."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Parser: the answer is whole."""
        if self._pieces:
            self._hand_on()
        receiver, self._receiver = self._receiver, None
        if receiver is None or not self._parser.should_keep_alive():
            self.abort()
        else:
            self._pool.put(self)
        if receiver is not None:
            receiver.on_complete()

    def _break(self, cause: str) -> None:
        if self._pieces:
            self._hand_on()
        receiver, self._receiver = self._receiver, None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        if receiver is not None:
            receiver.on_broken(cause)


class Pool:
    """The connections to one replica."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"replica url {url!r} is not of the form http://HOST:PORT")
        self.host = parts.hostname
        self.port = parts.port
        self._idle: list[Connection] = []

    def take(self) -> Connection | None:
        """An idle connection that is likely alive, or None."""
        fresh = time.monotonic() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since > fresh:
                return connection
            connection.abort()
        return None

    async def connect(self, timeout_s: float) -> Connection:
        """A new connection; raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
        return connection

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.used = True
        connection.idle_since = time.monotonic()
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        """A connection closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()
