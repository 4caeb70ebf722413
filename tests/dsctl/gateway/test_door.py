"""What the gateway lets in: paths, methods, hosts, sizes, odd requests, keys."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.rig import ADMIN, ROOT, Rig, until
from tests.faults.clients import ask, assert_exact, body_of, line_of

FAST = ["--ttft-ms", "1", "--itl-ms", "1"]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway before one fast oracle; nothing here changes it."""
    options = ["--allow-host", "models.example"]
    with Rig(tmp_path_factory.mktemp("door"), replicas=1, replica_options=FAST, gateway_options=options) as rig:
        yield rig


def raw(rig: Rig, data: bytes) -> bytes:
    """Send bytes, read until the gateway closes or is silent for a moment after its first byte."""
    host, port = rig.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(data)
        answer = b""
        try:
            while piece := client.recv(65536):
                answer += piece
                client.settimeout(0.3)
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def post(body: bytes, extra: bytes = b"", host: bytes = b"localhost") -> bytes:
    """A raw chat request."""
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        host,
        len(body),
        extra,
        body,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/internal/v1/generate",
        "/internal/v1/progress",
        "/server_info",
        "/-",
        "/v1",
        "/v1/chat/completions/",
        "/pause",
    ],
)
def test_unlisted_paths_do_not_exist(rig: Rig, path: str) -> None:
    """Everything that is not listed is 404, also what a replica would answer."""
    assert rig.client.get(rig.url + path).status_code == 404
    assert rig.client.post(rig.url + path, json={}).status_code == 404


def test_each_path_has_one_method(rig: Rig) -> None:
    """A listed path with another method is 405."""
    assert rig.client.get(f"{rig.url}/v1/chat/completions").status_code == 405
    assert rig.client.post(f"{rig.url}/v1/models", json={}).status_code == 405
    assert rig.client.delete(f"{rig.url}/v1/completions").status_code == 405


def test_pages(rig: Rig) -> None:
    """Health, readiness, models, version and metrics answer."""
    assert rig.client.get(f"{rig.url}/health").status_code == 200
    assert rig.client.get(f"{rig.url}/ready").status_code == 200
    assert rig.client.get(f"{rig.url}/v1/models").json()["data"][0]["id"] == "oracle"
    assert rig.client.get(f"{rig.url}/v1/models/oracle").json()["id"] == "oracle"
    unknown = rig.client.get(f"{rig.url}/v1/models/acme/other")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert rig.client.get(f"{rig.url}/version").json()["numerics_ids"] == ["oracle-1"]
    metrics = rig.metrics()
    assert metrics["dsctl_config_generation"] == 1
    assert metrics['dsctl_replica_state{replica="r1",state="healthy"}'] == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"127.0.0.1:1", 200),
        (b"[::1]:80", 200),
        (b"Models.Example", 200),
        (b"evil.example", 421),
        (b"evil/?", 400),
        (b"x#", 400),
        (b"localhost@evil", 400),
        (b"", 400),
    ],
)
def test_host_allow_list(rig: Rig, host: bytes, status: int) -> None:
    """Loopback names and configured ones are served; others are 421, malformed ones 400."""
    answer = raw(rig, b"GET /health HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % host)
    assert int(answer.split()[1]) == status


def test_host_must_be_one(rig: Rig) -> None:
    """No Host, or two, is 400."""
    assert raw(rig, b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n").split()[1] == b"400"
    twice = b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert raw(rig, twice).split()[1] == b"400"


def test_large_body_is_refused_on_its_head(rig: Rig) -> None:
    """A Content-Length beyond 8 MiB is 413 before a byte of the body is sent."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8388609\r\n\r\n"
    assert raw(rig, head).split()[1] == b"413"


@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 413), ("/nowhere", 404)])
def test_a_refusal_reaches_a_client_that_still_sends(rig: Rig, path: str, status: int) -> None:
    """A body that nobody wants does not turn its answer into a broken connection."""
    assert rig.client.post(rig.url + path, content=b" " * (9 << 20)).status_code == status


def test_large_chunked_body_is_refused_while_reading(rig: Rig) -> None:
    """A body without a length is counted as it comes."""

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    assert httpx.post(f"{rig.url}/v1/chat/completions", content=endless(), timeout=30).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"a":',
        b"\xff\xfe",
        b'{"a":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"stream": tru}',
    ],
)
def test_bodies_that_are_no_json_object(rig: Rig, body: bytes) -> None:
    """Anything but a JSON object is 400 with a code, and never reaches a replica."""
    answer = rig.client.post(f"{rig.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_body_cannot_break_out_of_its_envelope(rig: Rig) -> None:
    """A body with something after its object is refused: it is put verbatim into the replica's envelope."""
    answer = rig.client.post(f"{rig.url}/v1/chat/completions", content=b'{},"seed":1,"body":{}')
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "data",
    [
        post(b'{"a":1}', b"transfer-encoding: chunked\r\n"),
        post(b'{"a":1}', b"content-length: 3\r\n"),
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\nhost: localhost\ncontent-length: 2\n\n{}",
        post(b"{}", b"x: a\r\n b\r\n"),
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: +2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0x2\r\n\r\n{}",
    ],
    ids=["cl+te", "two-cl", "odd-te", "space-te", "bare-lf", "obs-fold", "plus-cl", "hex-cl"],
)
def test_ambiguous_framing_serves_nothing_twice(rig: Rig, data: bytes) -> None:
    """A request whose length two parsers could read differently never yields a second answer."""
    smuggled = b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answer = raw(rig, data + smuggled)
    assert b"numerics_ids" not in answer or answer.count(b"HTTP/1.1 ") == 2
    if b"numerics_ids" in answer:  # read as two requests: then the first was refused or served whole
        assert answer.split()[1] in (b"200", b"400")


def test_endless_head_is_cut(rig: Rig) -> None:
    """A head beyond 64 KiB closes the connection."""
    answer = raw(rig, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n")
    assert b"200" not in answer[:20]


@pytest.mark.parametrize("given", ["a" * 65, "x y", "10.0.0.1:80", "é", "", "-x"])
def test_request_id_is_made_harmless(rig: Rig, given: str) -> None:
    """A request id that is long, odd or an address is replaced; a plain one comes back."""
    headers = {"x-request-id": given.encode()}
    answer = rig.client.post(f"{rig.url}/v1/chat/completions", json=body_of(1, stream=False), headers=headers)
    assert answer.headers["x-request-id"] != given
    body = body_of(1, stream=False)
    assert ask(rig, body, headers={"x-request-id": "plain-1"}).headers["x-request-id"] == "plain-1"


def test_admin_routes_want_the_admin(rig: Rig) -> None:
    """/-/status and /-/drain answer only to the admin's token."""
    assert rig.client.get(f"{rig.url}/-/status").status_code == 401
    wrong = {"authorization": "Bearer wrong"}
    assert rig.client.post(f"{rig.url}/-/drain/r1", headers=wrong).status_code == 401
    right = {"authorization": f"Bearer {ADMIN}"}
    assert rig.client.post(f"{rig.url}/-/drain/nobody", headers=right).status_code == 404
    assert rig.client.get(f"{rig.url}/-/status", headers=right).json()["replicas"][0]["name"] == "r1"


def test_the_gateway_makes_id_created_and_seed(rig: Rig) -> None:
    """Every chunk carries the one id, and a request without a seed gets one that the ledger names."""
    body = {key: value for key, value in body_of(0).items() if key != "seed"}
    answer = ask(rig, body)
    chunks = [json.loads(line[6:]) for line in answer.raw.splitlines() if line.startswith("data: {")]
    line = line_of(rig, answer.ledger_name)
    assert {chunk["id"] for chunk in chunks} == {line.id}
    assert len({chunk["created"] for chunk in chunks}) == 1


def test_keys(tmp_path: Path) -> None:
    """With keys.json every route but health wants one; a revoked key stops working; headers are no identity."""
    secret = "sk-test-1"
    keys = {"keys": [{"id": "alice", "sha256": hashlib.sha256(secret.encode()).hexdigest()}]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    with Rig(tmp_path, replicas=1, replica_options=FAST) as rig:
        body = body_of(1, stream=False)
        assert ask(rig, body).status == 401
        assert ask(rig, body, headers={"authorization": "Bearer wrong"}).status == 401
        assert rig.client.get(f"{rig.url}/metrics").status_code == 401
        assert rig.client.get(f"{rig.url}/health").status_code == 200
        headers = {"authorization": f"Bearer {secret}", "x-user": "mallory", "x-dsctl-key": "mallory"}
        answer = ask(rig, {**body, "user": "mallory"}, headers=headers)
        assert_exact(answer, body)
        until("it is written down", lambda: '"key":"alice"' in (rig.folder / "gateway.jsonl").read_text())
        written = (rig.folder / "gateway.jsonl").read_text()
        assert "mallory" not in written
        (tmp_path / "keys.json.new").write_text(json.dumps({"keys": []}))
        (tmp_path / "keys.json.new").replace(tmp_path / "keys.json")
        until("the key is revoked", lambda: ask(rig, body, headers=headers).status == 401)


def run_gateway(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A gateway that is expected not to start."""
    return subprocess.run(
        [sys.executable, "-m", "dsctl.gateway", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


def test_open_listen_without_keys_is_refused(tmp_path: Path) -> None:
    """Listening beyond this machine without keys exits 6 and says what to do."""
    done = run_gateway("--state-dir", str(tmp_path), "--host", "0.0.0.0")
    assert done.returncode == 6
    assert "keys.json" in done.stderr
    assert "--no-auth" in done.stderr
    assert done.stdout == ""


def test_taken_port_exits_6(rig: Rig, tmp_path: Path) -> None:
    """A port in use is named."""
    port = rig.url.rsplit(":", 1)[1]
    done = run_gateway("--state-dir", str(tmp_path), "--port", port)
    assert done.returncode == 6
    assert port in done.stderr


def test_missing_state_dir_exits_2(tmp_path: Path) -> None:
    """A state directory that does not exist is a usage error."""
    assert run_gateway("--state-dir", str(tmp_path / "none")).returncode == 2
