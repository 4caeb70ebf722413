"""Weights between processes on loopback: whole, verified, resumable, for the right receiver only."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsctl.facts.manifest import Manifest, WeightFile
from dsctl.reach.weights import fetching, ground, identity, index
from dsctl.reach.weights.jobs import Check, Receive, Status, Telling
from dsctl.reach.weights.serving import SESSION, Sender
from tests.dsctl.reach.weights.transfers import CHUNK, WAIT_S, Ends, same, weights


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Files for a transfer; its processes are gone after the test."""
    made = Ends(tmp_path / "ends")
    yield made
    made.close()


def test_a_directory_arrives_and_the_sender_is_gone(ends: Ends, tmp_path: Path) -> None:
    """Every file arrives with its bytes and a root; the sender ends by itself; a second time nothing moves."""
    source, target = tmp_path / "source", tmp_path / "target"
    manifest = weights(source)
    sender = ends.serve(source)
    assert ends.status("serve").root == manifest.root()
    told = ends.receive(target, manifest.root())
    assert (told.state, told.moved, told.present) == ("done", manifest.size, 0)
    assert same(source, target)
    assert sender.wait(timeout=WAIT_S) == 0
    assert (target / ".dsctl" / "root").read_text().strip() == manifest.root()
    ends.serve(target)  # what was received is passed on without being hashed again
    again = ends.receive(target, manifest.root())
    assert (again.state, again.moved, again.present) == ("done", 0, manifest.size)


def test_a_killed_sender_costs_what_was_not_there_yet(ends: Ends, tmp_path: Path) -> None:
    """kill -9 of the sender: the receiver says which peer has gone; with another sender only the rest moves."""
    source, target = tmp_path / "source", tmp_path / "target"
    manifest = weights(source, sizes=(40 * CHUNK,))
    sender = ends.serve(source, rate=20.0 * CHUNK)
    receiver = ends.start("target", ends.job(target, manifest.root()))
    ends.until("target", lambda status: status.moved > 3 * CHUNK)
    sender.kill()
    receiver.wait(timeout=WAIT_S)
    broken = ends.status("target")
    assert (broken.state, broken.kind) == ("failed", "peer")
    assert "has gone" in broken.error
    assert not (target / "model-0.safetensors").exists()
    ends.serve(source)
    told = ends.receive(target, manifest.root())
    assert told.state == "done"
    assert told.present >= broken.moved > 0
    assert told.moved + told.present == manifest.size
    assert same(source, target)


def test_a_killed_receiver_goes_on(ends: Ends, tmp_path: Path) -> None:
    """kill -9 of the receiver: its next run asks only for what it does not have; nothing half has a final name."""
    source, target = tmp_path / "source", tmp_path / "target"
    manifest = weights(source, sizes=(40 * CHUNK,))
    ends.serve(source, rate=20.0 * CHUNK)
    receiver = ends.start("target", ends.job(target, manifest.root()))
    moved = ends.until("target", lambda status: status.moved > 3 * CHUNK).moved
    receiver.kill()
    receiver.wait()
    assert not (target / "model-0.safetensors").exists()
    refused = ends.receive(target, manifest.root())
    assert "403" in refused.error  # the token was for that receiver
    ends.serve(source)
    told = ends.receive(target, manifest.root())
    assert told.state == "done"
    assert told.present >= moved
    assert same(source, target)


def test_a_sender_nobody_asks_is_over(ends: Ends, tmp_path: Path) -> None:
    """Whoever started it may be dead: without requests it ends after its idle time, and at its deadline in any case."""
    weights(tmp_path / "source")
    assert ends.serve(tmp_path / "source", idle_s=0.5).wait(timeout=WAIT_S) == 0
    assert ends.serve(tmp_path / "source", idle_s=1000.0, deadline_s=0.5).wait(timeout=WAIT_S) == 0


def test_only_the_source_is_believed(ends: Ends, tmp_path: Path) -> None:
    """A peer with other weights is refused before a byte is written, by the root that came from the source."""
    manifest = weights(tmp_path / "source", seed=1)
    weights(tmp_path / "other", seed=2)
    ends.serve(tmp_path / "other")
    told = ends.receive(tmp_path / "target", manifest.root())
    assert (told.state, told.kind, told.moved) == ("failed", "peer", 0)
    assert "not believed" in told.error
    assert index.names(tmp_path / "target") == []


def test_only_the_key_of_the_plan_is_believed(ends: Ends, tmp_path: Path) -> None:
    """A sender with another certificate, even for the same token, is refused in the handshake."""
    manifest = weights(tmp_path / "source")
    ends.serve(tmp_path / "source")
    (ends.directory / "certificate").write_text(identity.make().certificate)
    told = ends.receive(tmp_path / "target", manifest.root())
    assert (told.state, told.kind) == ("failed", "peer")
    assert "key of this plan" in told.error


def test_a_check_finds_the_chunk_that_rotted(ends: Ends, tmp_path: Path) -> None:
    """One flipped bit under an unchanged date is found by name and number; a transfer brings that chunk alone."""
    source, target = tmp_path / "source", tmp_path / "target"
    manifest = weights(source)
    ends.serve(source)
    assert ends.receive(target, manifest.root()).state == "done"
    _flip(target / "model-0.safetensors", CHUNK + 5)
    check = Check(str(target), str(ends.directory / "check.status"))
    ends.start("check", check).wait(timeout=WAIT_S)
    assert ends.status("check").bad == ["model-0.safetensors: chunk 1 is wrong"]
    assert not (target / ".dsctl" / "root").exists()
    ends.serve(source)
    told = ends.receive(target, manifest.root())
    assert (told.state, told.moved) == ("done", CHUNK)
    assert same(source, target)
    ends.start("check", check).wait(timeout=WAIT_S)
    assert ends.status("check").bad == []


def _flip(path: Path, at: int) -> None:
    """Changes one bit as a disk would: size and date stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class Flipping(Sender):
    """Sends one chunk wrong, `times` times."""

    times = 0
    asked: list[str]

    def _send_range(self, request: BaseHTTPRequestHandler, name: str) -> None:
        told = request.headers["Range"]
        self.asked.append(f"{name} {told}")
        if self.times and told == f"bytes={CHUNK}-{2 * CHUNK - 1}":
            self.times -= 1
            request.send_response(206)
            request.send_header("Content-Length", str(CHUNK))
            request.end_headers()
            request.wfile.write(bytes(CHUNK))
            return
        super()._send_range(request, name)


def _through(sender: Flipping, ends: Ends, target: Path, root: str) -> tuple[Status, Exception | None]:
    """Receives in this process from a sender in this process."""
    import threading

    thread = threading.Thread(target=sender.serve, args=(WAIT_S, WAIT_S))
    thread.start()
    target.mkdir()
    job = Receive(str(target), str(ends.directory / "x.status"), "127.0.0.1", sender.port,
                  str(ends.directory / "certificate"), ends.token, root)  # fmt: skip
    telling = Telling(job.status, Status())
    failure: Exception | None = None
    try:
        fetching.receive(job, telling)
    except Exception as error:  # noqa: BLE001 - handed to the test
        failure = error
    finally:
        telling.end()
        sender.stop()
        thread.join()
    return telling.status, failure


def _flipping(ends: Ends, source: Path, manifest: Manifest, times: int) -> Flipping:
    files = (str(ends.directory / "certificate"), str(ends.directory / "key"))
    sender = Flipping(source, manifest, files, ends.token)
    sender.times, sender.asked = times, []
    return sender


def test_a_corrupt_chunk_is_asked_for_again_alone(ends: Ends, tmp_path: Path) -> None:
    """A chunk whose hash is wrong never reaches the file; it alone is fetched once more."""
    manifest = weights(tmp_path / "source", sizes=(4 * CHUNK,))
    sender = _flipping(ends, tmp_path / "source", manifest, 1)
    told, failure = _through(sender, ends, tmp_path / "target", manifest.root())
    assert failure is None
    assert (told.again, told.moved) == (1, manifest.size)
    twice = {each for each in sender.asked if sender.asked.count(each) > 1}
    assert twice == {f"model-0.safetensors bytes={CHUNK}-{2 * CHUNK - 1}"}
    assert same(tmp_path / "source", tmp_path / "target")


def test_a_peer_that_only_sends_rot_is_given_up(ends: Ends, tmp_path: Path) -> None:
    """After a few wrong tries the chunk is named, and no file of that name exists."""
    manifest = weights(tmp_path / "source", sizes=(4 * CHUNK,))
    sender = _flipping(ends, tmp_path / "source", manifest, 1000)
    _, failure = _through(sender, ends, tmp_path / "target", manifest.root())
    assert isinstance(failure, fetching.PeerError)
    assert "model-0.safetensors: chunk 1" in failure.message
    assert not (tmp_path / "target" / "model-0.safetensors").exists()


def test_strangers_get_nothing(ends: Ends, tmp_path: Path) -> None:
    """Without the token, with it from a second session, or outside the manifest: 403, 404, 416, never a byte."""
    weights(tmp_path / "source")
    (tmp_path / "source" / "late.txt").write_text("secret")
    ends.serve(tmp_path / "source")
    (tmp_path / "source" / "later.txt").write_text("secret")

    def ask(token: str, session: str, path: str, span: str = "bytes=0-1") -> int:
        context = ssl.create_default_context(cafile=str(ends.directory / "certificate"))
        context.check_hostname = False
        line = http.client.HTTPSConnection("127.0.0.1", ends.status("serve").port, context=context, timeout=WAIT_S)
        line.request("GET", path, headers={"Authorization": f"Bearer {token}", SESSION: session, "Range": span})
        answer = line.getresponse()
        answer.read()
        line.close()
        return answer.status

    file = "/file?name=config.json"
    assert ask("wrong", "a", file) == 403
    assert ask("", "", file) == 403
    assert ask(ends.token, "a", file) == 206
    assert ask(ends.token, "b", file) == 403
    for path in ("/file?name=later.txt", "/file?name=../ends/key", "/file?name=%2Fetc%2Fpasswd", "/", "/file"):
        assert ask(ends.token, "a", path) == 404
    for span in ("bytes=0-99", "bytes=-5", "", "bytes=5-1", "lines=0-1"):
        assert ask(ends.token, "a", file, span) == 416


def test_no_room_is_known_before(ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is too small is told by numbers before a byte is written."""
    manifest = weights(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    place = ground.Ground(target, manifest)
    wanted = place.missing(lambda _: None)

    class Full:
        f_bavail, f_frsize = 10, 512

    monkeypatch.setattr(ground.os, "statvfs", lambda _: Full)
    with pytest.raises(ground.SpaceError, match=r"are needed, 5\.0 KiB are free"):
        place.check_room(wanted)
    assert index.names(target) == ["sub/empty.txt"]


def test_a_disk_that_fills_up_is_left_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the room runs out while a file grows, its half is removed and no file has its final name."""
    manifest = weights(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    place = ground.Ground(target, manifest)
    place.missing(lambda _: None)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ground.os, "posix_fallocate", full)
    with pytest.raises(ground.SpaceError, match="its half was removed"):
        place.begin(manifest.files[1])
    assert [path for path in target.rglob("*") if path.is_file() and path.name != "empty.txt"] == []


def test_jobs_travel_as_json() -> None:
    """What one side writes the other reads, and a torn status is one of a job that runs."""
    from dsctl.reach.weights.jobs import read_job, read_status

    job = Check("/weights", "/out/status")
    assert read_job(msgspec.json.encode(job)) == job
    assert read_status(b'{"state": "do').state == "running"


def test_unchanged_files_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second manifest of a directory reads only files whose size, date or inode changed."""
    weights(tmp_path / "source")
    memory = tmp_path / "memory.json"
    first = index.build(tmp_path / "source", chunk=CHUNK, memory=memory)
    (tmp_path / "source" / "config.json").write_text('{"a": 1}')
    read: list[str] = []
    plain = index.digest
    monkeypatch.setattr(index, "digest", lambda path, *place: (read.append(path.name), plain(path, *place))[1])
    second = index.build(tmp_path / "source", chunk=CHUNK, memory=memory)
    assert read == ["config.json"]
    assert [a == b for a, b in zip(first.files, second.files, strict=True)] == [False, True, True, True]
    assert isinstance(second.files[0], WeightFile)
