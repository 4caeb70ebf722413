"""Connections of a load worker: raw sockets, kept open and used again, with the time that making one took."""

from __future__ import annotations

import select
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gevent import socket
from gevent import ssl as gevent_ssl

if TYPE_CHECKING:
    from dsctl.bench.plan import Target

CONNECT_S = 30.0


@dataclass(slots=True)
class Connection:
    """An open connection; `made_in` is how many seconds making it took, None when it was open already."""

    socket: socket.socket
    made_in: float | None

    def close(self) -> None:
        """Close it; a connection that is not known to be clean is never used again."""
        self.socket.close()


class Connections:
    """All connections of one worker to one server, without a cap: a hidden queue would be counted as server time."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._host = parts.hostname or "127.0.0.1"
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._context = gevent_ssl.create_default_context(cafile=target.cacert) if self._is_tls else None
        self._idle: list[socket.socket] = []
        self.authority = f"[{self._host}]" if ":" in self._host else self._host
        if parts.port:
            self.authority += f":{parts.port}"
        self.prefix = parts.path.rstrip("/")

    def take(self, *, is_new: bool = False) -> Connection:
        """An idle connection that the server has not closed, else (or when asked for) a new one. Raises OSError."""
        while self._idle and not is_new:
            idle = self._idle.pop()
            if _is_silent(idle):
                return Connection(idle, None)
            idle.close()
        began = perf_counter()
        made = socket.create_connection((self._host, self._port), CONNECT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            made = self._context.wrap_socket(made, server_hostname=self._host)
        made.settimeout(None)
        return Connection(made, perf_counter() - began)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer is complete."""
        self._idle.append(connection.socket)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()


def _is_silent(idle: socket.socket) -> bool:
    """True when nothing can be read: neither an end (the server closed it) nor bytes nobody asked for."""
    poll = select.poll() if hasattr(select, "poll") else None
    if poll is None:
        return True
    poll.register(idle.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return not poll.poll(0)


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    return f"{type(error).__name__}: {error}"[:200]
