"""Weights from a mirror: what a checkpoint needs, resumed, checked by the hashes that are told, through proxies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dsctl.reach.weights.jobs import Pull, Status, Telling
from dsctl.reach.weights.mirror import MirrorError, pull

SHARD = bytes(range(256)) * 2048
SHARDS = ("m-1.safetensors", "m-2.safetensors")
FILES = {
    "config.json": b"{}", "tokenizer.json": b'{"a": 1}',
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    "m-1.safetensors": SHARD, "m-2.safetensors": SHARD[::-1],
}  # fmt: skip


class Hub(ThreadingHTTPServer):
    """A mirror with faults; it also answers as an HTTP proxy for any host."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range
        self.hosts: set[str] = set()
        self.cut = 0  # answers that break off after half
        self.rot = 0  # answers with a wrong byte
        self.busy = 0  # answers with 503
        self.token = ""
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Of one revision."""
        return f"http://127.0.0.1:{self.server_address[1]}/org/model/resolve/main"


class Handler(BaseHTTPRequestHandler):
    """Ranges of FILES."""

    server: Hub

    def do_HEAD(self) -> None:
        """Sizes; of shards the hash as the hub tells it."""
        self._answer(is_head=True)

    def do_GET(self) -> None:
        """Bytes."""
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        hub, url = self.server, urlsplit(self.path)
        hub.hosts.add(url.netloc)
        name = url.path.rpartition("/")[2]
        hub.asked.append((self.command, name, self.headers.get("Range") or ""))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.send_error(401)
        if hub.busy:
            hub.busy -= 1
            return self.send_error(503)
        if name not in FILES:
            return self.send_error(404)
        data = FILES[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        if name.endswith(".safetensors"):
            self.send_header("X-Linked-Etag", f'"{sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
        self.end_headers()
        if is_head:
            return None
        body = data[first:]
        if hub.rot and name == "m-1.safetensors":
            hub.rot -= 1
            body = b"x" + body[1:]
        if hub.cut and name == "m-1.safetensors":
            hub.cut -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A mirror on loopback."""
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def bring(hub: Hub, target: Path, **options: object) -> Status:
    """Pulls everything; the last status."""
    target.mkdir(exist_ok=True)
    telling = Telling(str(target.parent / "status"), Status())
    try:
        pull(Pull(str(target), str(target.parent / "status"), **{"url": hub.url, **options}), telling)
    finally:
        telling.end()
    return telling.status


def test_what_the_index_names_arrives(hub: Hub, tmp_path: Path) -> None:
    """Configuration, tokenizer and every shard of the index come; a second time nothing is fetched but sizes."""
    told = bring(hub, tmp_path / "target")
    assert {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir() if path.is_file()} == FILES
    assert told.moved == told.total == sum(len(each) for each in FILES.values())
    assert (tmp_path / "target" / ".dsctl" / "root").read_text().strip() == told.root
    hub.asked.clear()
    again = bring(hub, tmp_path / "target")
    assert (again.moved, again.root) == (0, told.root)
    assert {name for method, name, _ in hub.asked if method == "GET"} == {"model.safetensors.index.json"}


def test_a_break_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """A connection that breaks off in the middle is continued by a range from there, not begun anew."""
    hub.cut = 1
    bring(hub, tmp_path / "target")
    spans = [span for method, name, span in hub.asked if (method, name) == ("GET", "m-1.safetensors")]
    assert spans == ["", f"bytes={len(SHARD) // 2}-"]
    assert (tmp_path / "target" / "m-1.safetensors").read_bytes() == SHARD


def test_what_has_another_hash_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    """A file that comes wrong once is fetched again; one that always does is refused and has no final name."""
    hub.rot = 1
    assert bring(hub, tmp_path / "target").again == 1
    hub.rot = 100
    with pytest.raises(MirrorError, match=r"m-1\.safetensors"):
        bring(hub, tmp_path / "other")
    assert not (tmp_path / "other" / "m-1.safetensors").exists()
    assert not (tmp_path / "other" / ".dsctl" / "root").exists()


def test_a_busy_mirror_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    """503 is asked again after a pause."""
    hub.busy = 2
    assert bring(hub, tmp_path / "target").root


def test_the_token_opens_and_its_lack_is_said(hub: Hub, tmp_path: Path) -> None:
    """Without the token the refusal names what to set; with it the files come."""
    hub.token = "hf_secret"
    with pytest.raises(MirrorError, match="401") as refused:
        bring(hub, tmp_path / "target")
    assert "token_file" in refused.value.hint
    assert bring(hub, tmp_path / "target", token="hf_secret").root


def test_proxies_are_honoured(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is set, or that the environment names, carries requests for a host that is reached no other way."""
    proxy = f"http://127.0.0.1:{hub.server_address[1]}"
    url = "http://mirror.invalid/org/model/resolve/main"
    assert bring(hub, tmp_path / "one", url=url, proxy=proxy).root
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert bring(hub, tmp_path / "two", url=url).root
    assert hub.hosts == {"mirror.invalid"}
