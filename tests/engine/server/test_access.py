"""Who is let in, on which address, and what a process says when it cannot start."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.checkpoints import make_checkpoint
from tests.engine.server.programs import ROOT, Server, command, environment, serving

TOKEN = "secret-token-of-this-test"


@pytest.fixture(scope="module")
def guarded(textual_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a token."""
    path = tmp_path_factory.mktemp("secrets") / "token"
    path.write_text(TOKEN + "\n")
    with serving(textual_model, "--token-file", str(path)) as running:
        yield running


ROUTES = [
    ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/version"), ("GET", "/server_info"), ("POST", "/tokenize"),
    ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/inference"), ("POST", "/detokenize"),
    ("POST", "/internal/v1/generate"), ("GET", "/internal/v1/progress"), ("GET", "/no/such/route"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic " + TOKEN, "Bearer", TOKEN])
def test_every_route_wants_the_token(guarded: Server, method: str, path: str, given: str | None) -> None:
    """Without the right bearer token every route but health and readiness is 401, known or not."""
    answer = guarded.http.request(method, guarded.url + path, headers={"authorization": given} if given else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_open_routes_and_the_right_token(guarded: Server) -> None:
    """Health and readiness are open; with the token the rest answers."""
    assert guarded.get("/health").status_code == guarded.get("/ready").status_code == 200
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.http.get(guarded.url + "/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Original-URL: /health\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: evil/health?\r\n",
        "GET /v1/models?/health HTTP/1.1\r\nHost: x#/health\r\n",
        "GET http://x/v1/models HTTP/1.1\r\nHost: /health\r\n",
        "GET /health/../v1/models HTTP/1.1\r\nHost: x\r\n",
        "GET //health/v1/models HTTP/1.1\r\nHost: x\r\n",
        "GET /health%2f..%2fv1/models HTTP/1.1\r\nHost: x\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nX: " + "a" * 100_000 + "\r\n",
        "G\x00T /health HTTP/1.1\r\nHost: x\r\n",
    ],
)
def test_no_header_changes_the_route(guarded: Server, head: str) -> None:
    """Odd targets, hosts and framings are refused; none of them gets in without the token."""
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode("latin-1") + b"Connection: close\r\n\r\n")
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    assert not answer or answer.split(b" ", 2)[1] in (b"400", b"401", b"404"), answer[:200]


def test_internal_routes_exist_only_with_a_token(server: Server) -> None:
    """A server without a token has no internal routes."""
    assert server.get("/internal/v1/progress").status_code == 404
    assert server.post("/internal/v1/generate", {}).status_code == 404


def test_methods_and_request_ids(server: Server) -> None:
    """Other methods are 405; a harmless request id is returned, any other is replaced."""
    assert server.get("/v1/completions").status_code == 405
    assert server.http.head(server.url + "/health").content == b""
    echoed = server.http.get(server.url + "/health", headers={"x-request-id": "abc-1.2_3"})
    assert echoed.headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 200, "http://169.254.169.254", "é"):
        given = server.http.get(server.url + "/health", headers={"x-request-id": bad.encode()})
        assert given.headers["x-request-id"].startswith("req-")


def _fails(model: Path, *flags: str, core: str | None = "tests.engine.server.fake_core") -> tuple[int, str]:
    done = subprocess.run(
        command(model, *flags, core=core), capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_an_open_listener_is_refused(textual_model: Path) -> None:
    """Listening beyond loopback without a token or --no-auth exits 6 and says what to give."""
    code, words = _fails(textual_model, "--host", "0.0.0.0")
    assert code == 6
    assert "--token-file" in words


def test_a_taken_port(server: Server) -> None:
    """A port in use exits 6 and names it."""
    port = server.url.rsplit(":", 1)[1]
    code, words = _fails(Path(server.info()["config"]["model"]), "--port", port)
    assert code == 6
    assert f":{port} is already in use" in words


def test_a_missing_config(textual_model: Path, tmp_path: Path) -> None:
    """A checkpoint without config.json exits 2 and names the file."""
    (tmp_path / "tokenizer.json").write_bytes((textual_model / "tokenizer.json").read_bytes())
    code, words = _fails(tmp_path)
    assert code == 2
    assert "config.json" in words


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    """Weights that end early exit 2 with the name of the file or tensor, told by the real core."""
    path = make_checkpoint(tmp_path / "short", "v3", tokenizer=True)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    code, words = _fails(path, core=None)
    assert code == 2
    assert "model.safetensors" in words


def test_an_open_progress_stream_ends_quietly(textual_model: Path, tmp_path: Path) -> None:
    """A gateway that listens while its replica is told to end sees the stream end, and the log holds no traceback."""
    (tmp_path / "token").write_text(TOKEN)
    with serving(textual_model, "--token-file", str(tmp_path / "token")) as server:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with server.http.stream("GET", server.url + "/internal/v1/progress", headers=headers) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            server.process.send_signal(signal.SIGTERM)
            assert all(line.startswith("data: ") for line in lines if line)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.stderr.read_text()


def test_help_is_instant_and_light() -> None:
    """--help loads neither the web server nor the tokenizer."""
    code = (
        "import sys, engine.server.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('uvicorn', 'tokenizers', 'jinja2', 'msgspec', 'asyncio') if n in sys.modules])"
    )
    done = subprocess.run(
        [*command(ROOT)[:1], "-c", code], capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--kv-cache-ratio" in done.stdout
