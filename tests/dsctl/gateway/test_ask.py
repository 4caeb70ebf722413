"""`python -m dsctl.gateway.ask`: one request from inside a container, with secrets read from files."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SEEN: list[Message] = []


class Handler(BaseHTTPRequestHandler):
    """Answers /ready with 200, /busy with 503, and repeats what is posted."""

    def do_GET(self) -> None:
        """By path."""
        SEEN.append(self.headers)
        self._answer(503 if self.path == "/busy" else 200, b"ok")

    def do_POST(self) -> None:
        """What came in."""
        self._answer(200, self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server() -> Iterator[str]:
    """Its address."""
    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    thread.join()
    found.server_close()


def ask(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs it."""
    argv = [sys.executable, "-m", "dsctl.gateway.ask", *words]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_status_body_and_exit_code(server: str, tmp_path: Path) -> None:
    """2xx is 0, another status 1, no answer 2; secrets go from files into headers; a body is posted from stdin."""
    (tmp_path / "token").write_text("s3cret\n")
    done = ask(f"{server}/ready", "--token-file", str(tmp_path / "token"), "--header-file", f"x-a={tmp_path / 'token'}")
    assert (done.returncode, done.stdout) == (0, "200\nok")
    assert SEEN[-1]["Authorization"] == "Bearer s3cret"
    assert SEEN[-1]["x-a"] == "s3cret"
    assert ask(f"{server}/busy").returncode == 1
    assert ask(f"{server}/x", "--post", stdin='{"a": 1}').stdout == '200\n{"a": 1}'
    assert ask("http://127.0.0.1:1/").returncode == 2
    assert ask("file:///etc/passwd").returncode == 2
