"""The listening socket and the HTTP/1.1 protocol on it: uvicorn's, with a cap on headers and a way to cut a client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.server.app import App
from engine.spec.errors import ConfigError, PortTakenError

MOST_HEADER_BYTES = 64 << 10
HEADER_DEADLINE_S = 15.0  # for a whole head, from the connection or from its first byte on


class Protocol(HttpToolsProtocol):
    """Counts header bytes, and shows the transport to the application so that a stalled client can be dropped."""

    _header_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client came; it has to say something soon."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        self._head_arrived()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A new request begins on the connection."""
        super().on_message_begin()
        self._header_bytes = 0
        self._expect_head()
        self.scope["extensions"] = {"engine.transport": {"transport": self.transport}}

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_arrived()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_arrived()
        self._head_timer = self.loop.call_later(HEADER_DEADLINE_S, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError(f"headers of more than {MOST_HEADER_BYTES} bytes")


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortTakenError, or ConfigError for an address this machine does not have."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"{host}:{port} is already in use; choose another --port, or 0 for any free one"
            ) from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """http://HOST:PORT of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: App) -> HttpServer:
    """A server for the application; call `serve(sockets=[…])`."""
    options: dict[str, Any] = {
        "http": Protocol,
        "ws": "none",
        "loop": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 1,
        "backlog": 1024,
    }
    return HttpServer(uvicorn.Config(app, **options))  # pyright: ignore[reportArgumentType]
