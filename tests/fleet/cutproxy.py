"""A TCP relay that a test can freeze: connections stay open and nothing comes through, as in a network partition."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class CutProxy:
    """Relays 127.0.0.1:`port` to one address until it is closed."""

    def __init__(self, address: str, port: int = 22) -> None:
        self._target = (address, port)
        self._open = threading.Event()
        self._open.set()
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Nothing comes through any more, in either direction; nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        """What was held back comes through, in order."""
        self._open.set()

    def close(self) -> None:
        """Ends all connections."""
        self._closed.set()
        self._open.set()
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
                self._open.wait()
                server = socket.create_connection(self._target, timeout=60)
                server.settimeout(None)
            except OSError:
                return
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
