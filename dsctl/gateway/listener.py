"""The listening side: uvicorn's HTTP protocol with bounds of its own, and a shutdown that lets streams end."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dsctl.gateway.app import Gateway
from dsctl.gateway.asgi import Receive, Scope, Send
from dsctl.gateway.desk import Desk
from dsctl.gateway.settings import Settings

MAX_HEAD = 64 << 10  # bytes of target and headers
KEEP_ALIVE_S = 75
GRACE_S = 2  # after the error events are written


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, whose connections must send a whole head in time and in bounds.

    It also lets the application reach the transport, to cut a client that does not read.
    """

    head_deadline_s = 15.0
    _head_size = 0
    _in_head = False
    _on_gone: Callable[[], None] | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client came; its head must follow."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_deadline_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        self._drop_timer()
        super().connection_lost(exc)
        if self._on_gone is not None:
            self._on_gone()

    def data_received(self, data: bytes) -> None:
        """Bytes came; a head that is not whole yet has a deadline."""
        super().data_received(data)
        if not self._in_head:
            return
        self._head_size += len(data)
        if self._head_size > MAX_HEAD:
            self.cut()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_deadline_s, self._too_slow)

    def on_message_begin(self) -> None:
        """Parser: a request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_size = 0
        self.scope["extensions"] = {"dsctl.connection": self}  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        """Parser: the head is whole."""
        self._in_head = False
        self._drop_timer()
        super().on_headers_complete()

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """Call back at once when the client closes; reading goes on so that this is noticed."""
        self._on_gone = on_gone
        if on_gone is not None:
            self.flow.resume_reading()
            if self.transport.is_closing():
                on_gone()

    def cut(self) -> None:
        """Close without waiting for what is unsent."""
        if not self.transport.is_closing():
            self.transport.abort()

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _drop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Listener(uvicorn.Server):
    """Serves until SIGTERM; then takes nothing new, lets streams end, and at last ends them with an error event."""

    def __init__(self, config: uvicorn.Config, desk: Desk, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._desk = desk
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """SIGTERM and SIGINT end the server; the process then ends with 0 rather than by the signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        yield

    def _leave(self) -> None:
        self._desk.is_draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and wait for what runs, at most `shutdown_s`."""
        loop = asyncio.get_running_loop()
        stopper = loop.call_later(self._desk.settings.shutdown_s, self._desk.stop_all)
        await super().shutdown(sockets)
        stopper.cancel()


def bind(settings: Settings) -> socket.socket:
    """The listening socket; raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host.strip("[]"), settings.port))
    except OSError:
        listening.close()
        raise
    return listening


async def serve(settings: Settings, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Run one gateway until it is told to stop."""
    desk = Desk(settings)
    gateway = Gateway(desk)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway(scope, receive, send)

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=type("Protocol", (BoundedProtocol,), {"head_deadline_s": settings.head_deadline_s}),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_s) + GRACE_S,
        backlog=2048,
    )
    desk.load()
    # What was made so far stays; what requests make dies young. The collector need not look at either often.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    clock = asyncio.create_task(desk.run())
    try:
        await Listener(config, desk, on_ready).serve(sockets=[listening])
    finally:
        clock.cancel()
        desk.ledger.flush()
        await desk.fleet.close()
