"""A new certificate while clients are served: nginx as rendered reads it again, and nobody notices."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.rig import free_port
from dsctl.planning.rendering import render

WAIT_S = 60.0
SEARCHED = "/usr/local/sbin:/usr/sbin:/usr/bin"


class Gateway(BaseHTTPRequestHandler):
    """Answers in two parts with a pause between, as a stream does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Two chunks."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"one ", b"two"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def certificate(directory: Path, name: str) -> None:
    """tls.crt and tls.key for a name, each put in place by a rename as dsctl does."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", f"/CN={name}", "-keyout", str(directory / "new.key"), "-out", str(directory / "new.crt")]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    for end in ("key", "crt"):
        (directory / f"new.{end}").replace(directory / f"tls.{end}")


def shown(port: int) -> str:
    """The name in the certificate that nginx shows now."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=WAIT_S)
    told = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    return told.stdout.strip().rpartition("=")[2].strip()


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(directory: Path, port: int, gateway: int) -> Iterator[subprocess.Popen[bytes]]:
    """nginx with the rendered configuration, its paths led to `directory`."""
    text = render("nginx/nginx.conf.j2", {
        "port": port, "is_tls": True, "rate_limit": 0, "server_names": ["localhost"], "is_root": os.getuid() == 0,
        "gateways": [{"address": f"127.0.0.1:{gateway}", "is_backup": False}], "drain_s": 60,
    })  # fmt: skip
    text = text.replace("/tmp/", f"{directory}/").replace("/run/secrets", str(directory)).replace("65536", "1024")
    (directory / "nginx.conf").write_text(text.replace("worker_connections 16384", "worker_connections 256"))
    directory.chmod(0o755)
    binary = shutil.which("nginx", path=SEARCHED) or "nginx"
    child = subprocess.Popen([binary, "-c", str(directory / "nginx.conf")], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + WAIT_S
        while not listens(port):
            assert child.poll() is None and time.monotonic() < end, child.stderr
            time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=WAIT_S)


@pytest.mark.fleet
@pytest.mark.skipif(
    not shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin"), reason="nginx is not installed"
)
def test_a_certificate_is_exchanged_under_load(tmp_path: Path) -> None:
    """Three exchanges while four clients ask without pause: 0 failed, 0 altered, and the new certificate is shown."""
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    upstream.daemon_threads = True
    threading.Thread(target=upstream.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    port, wrong, asked, stop = free_port(), list[str](), list[int](), threading.Event()
    certificate(tmp_path, "first")

    def client() -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not stop.is_set():
            line = http.client.HTTPSConnection("localhost", port, context=context, timeout=WAIT_S)
            try:
                line.request("GET", "/v1/models")
                answer = line.getresponse()
                body = answer.read()
                if (answer.status, body) != (200, b"one two"):
                    wrong.append(f"{answer.status} {body!r}")
                asked.append(1)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(repr(error))
            finally:
                line.close()

    with nginx(tmp_path, port, upstream.server_address[1]) as running:
        clients = [threading.Thread(target=client) for _ in range(4)]
        for each in clients:
            each.start()
        try:
            for name in ("second", "third", "fourth"):
                before = len(asked)
                certificate(tmp_path, name)
                running.send_signal(signal.SIGHUP)
                end = time.monotonic() + WAIT_S
                while shown(port) != name or len(asked) < before + 20:
                    assert time.monotonic() < end, (name, shown(port), wrong[:3])
                    time.sleep(0.05)
        finally:
            stop.set()
            for each in clients:
                each.join()
    upstream.shutdown()
    upstream.server_close()
    assert wrong == []
    assert len(asked) >= 60
