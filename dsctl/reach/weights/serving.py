"""The sending end: an HTTPS server for the ranges of one manifest, for one receiver, that ends by itself."""

from __future__ import annotations

import hmac
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dsctl.facts.manifest import Manifest
from dsctl.reach.weights.pace import Cap

BLOCK = 256 << 10
SOCKET_S = 60.0
SESSION = "X-Dsctl-Session"


class Sender:
    """Serves until `done` is posted, nothing was asked for `idle_s`, or `deadline_s` is over, whoever still lives."""

    def __init__(
        self, directory: Path, manifest: Manifest, files: tuple[str, str], token: str, *,
        bind: tuple[str, int] = ("127.0.0.1", 0), rate: float = 0.0,
    ) -> None:  # fmt: skip
        """`files` are the PEM files of certificate and key."""
        self._directory = directory
        self._sizes = {each.name: each.size for each in manifest.files}
        self._text = manifest.text().encode()
        self._token = token
        self._session = ""
        self._cap = Cap(rate)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._asked_at = time.monotonic()
        self._open = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*files)
        self._server = _Server(bind, _handler(self), context)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def serve(self, idle_s: float, deadline_s: float) -> bool:
        """Until the end; True when the receiver said that it has everything."""
        end = time.monotonic() + deadline_s
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            while not self._done.wait(0.05):
                now = time.monotonic()
                with self._lock:
                    is_idle = not self._open and now - self._asked_at > idle_s
                if now > end or is_idle:
                    return False
            return True
        finally:
            self._server.shutdown()
            self._server.server_close()

    def stop(self) -> None:
        """Ends `serve` from another thread."""
        self._done.set()

    # what a request may

    def admits(self, token: str, session: str) -> bool:
        """The token, and nobody used it before; or the session that did."""
        if not session or not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        with self._lock:
            self._session = self._session or session
            return hmac.compare_digest(session.encode(), self._session.encode())

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """GET /manifest, GET /file?name=N with a Range, POST /done."""
        with self._lock:
            self._open += 1
            self._asked_at = time.monotonic()
        try:
            self._answer(request)
        finally:
            with self._lock:
                self._open -= 1
                self._asked_at = time.monotonic()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        url = urlsplit(request.path)
        if not self.admits(token, request.headers.get(SESSION) or ""):
            return _send(request, 403, b"")
        if request.command == "POST" and url.path == "/done":
            _send(request, 200, b"")
            return self._done.set()
        if request.command == "GET" and url.path == "/manifest":
            return _send(request, 200, self._text)
        name = "".join(parse_qs(url.query).get("name", []))
        if request.command != "GET" or url.path != "/file" or name not in self._sizes:
            return _send(request, 404, b"")
        return self._send_range(request, name)

    def _send_range(self, request: BaseHTTPRequestHandler, name: str) -> None:
        first, last = _range(request.headers.get("Range") or "")
        if not 0 <= first <= last < self._sizes[name]:
            return _send(request, 416, b"")
        left = last - first + 1
        with (self._directory / name).open("rb", buffering=0) as file:
            file.seek(first)
            request.send_response(206)
            request.send_header("Content-Length", str(left))
            request.end_headers()
            while left:
                data = file.read(min(BLOCK, left))
                if not data:  # shorter than the manifest says: the receiver sees the connection break
                    request.close_connection = True
                    return None
                self._cap.take(len(data))
                request.wfile.write(data)
                left -= len(data)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, bind: tuple[str, int], handler: Any, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(bind, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake is made in the connection's own thread: a stranger who is slow at it delays nobody."""
        with suppress(OSError):
            request.settimeout(SOCKET_S)
            secured = self._context.wrap_socket(request, server_side=True)
            try:
                super().finish_request(secured, client_address)  # pyright: ignore[reportArgumentType]
            finally:
                secured.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A receiver that goes away is no event here; it asks again or does not."""


def _handler(sender: Sender) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SOCKET_S

        def do_GET(self) -> None:
            sender.answer(self)

        def do_POST(self) -> None:
            sender.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    return Handler


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _range(text: str) -> tuple[int, int]:
    """(first, last) of `bytes=a-b`; (-1, -1) for anything else."""
    first, dash, last = text.removeprefix("bytes=").partition("-")
    if text.startswith("bytes=") and dash and first.isdigit() and last.isdigit():
        return int(first), int(last)
    return -1, -1
