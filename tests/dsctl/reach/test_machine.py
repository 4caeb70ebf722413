"""This machine's files, processes and ports, as the local door handles them."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsctl.base.errors import DeadlineError, DsctlError, PreflightError
from dsctl.base.missing import Missing
from dsctl.base.places import Places
from dsctl.base.step import Forget, WriteFile
from dsctl.base.voice import Silence
from dsctl.reach import machine
from dsctl.reach.dry import Dry
from dsctl.reach.fake import Fake
from dsctl.reach.local import Local
from dsctl.reach.patience import Patience
from tests.dsctl.flows.machines import project

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(600)
"""


def test_a_file_is_written_whole_and_private(tmp_path: Path) -> None:
    """Mode 0600, nothing left beside it, and equal text leaves the file alone."""
    path = tmp_path / "a" / "file"
    machine.write(path, "text")
    before = path.stat()
    machine.write(path, "text")
    assert (path.read_text(), before.st_mode & 0o777) == ("text", 0o600)
    assert path.stat().st_ino == before.st_ino
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_token_is_made_once(tmp_path: Path) -> None:
    """A second run keeps the token, which is long."""
    machine.make_token(tmp_path / "t")
    first = (tmp_path / "t").read_text()
    machine.make_token(tmp_path / "t")
    assert (tmp_path / "t").read_text() == first
    assert len(first.strip()) >= 40


def test_a_free_port_is_really_free(tmp_path: Path) -> None:
    """A port somebody listens on is passed over, and none left is refused."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        assert machine.free_port("127.0.0.1", [port, free]) == free
        with pytest.raises(PreflightError, match=f"127.0.0.1:{port}: Address already in use"):
            machine.free_port("127.0.0.1", [port])
    with pytest.raises(PreflightError, match="cannot listen on 192"):
        machine.free_port("192.0.2.1", [0, 0])


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the old text, nothing beside it, and an error with the path and what helps."""
    path = tmp_path / "file"
    machine.write(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    door = Local(Places(tmp_path, "dsctl"), sys.executable, Patience(0.0))
    with pytest.raises(DsctlError, match=f"{path}: No space left") as caught:
        door.act(WriteFile(path, "new"), Silence())
    assert "make room" in caught.value.hint
    assert [(p.name, p.read_text()) for p in tmp_path.glob("*file*")] == [("file", "old")]


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    """SIGTERM first, SIGKILL after the grace; another process under the pid is left alone."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = machine.start_time(process.pid)
        machine.end(process.pid, "another start time", 0.1)
        assert process.poll() is None
        machine.end(process.pid, started, 0.1)
        assert process.wait(timeout=30) == -signal.SIGKILL


def test_a_zombie_counts_as_ended() -> None:
    """A child that has ended but was not collected is no living process."""
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 30
    while machine.start_time(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert machine.start_time(process.pid) == ""
    process.wait()


def test_a_checkpoint_is_listed_by_content_or_time(tmp_path: Path) -> None:
    """Small files by their hash, so a fresh checkout is the same checkpoint; other files do not count."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("x")
    first = machine.listing(tmp_path)
    os.utime(tmp_path / "config.json", (1, 1))
    assert machine.listing(tmp_path) == first
    assert isinstance(first, str)
    assert [row[0] for row in json.loads(first)] == ["config.json"]
    assert isinstance(machine.listing(tmp_path / "none"), Missing)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    """The last lines, of long, empty and missing files."""
    (tmp_path / "long").write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert machine.tail(tmp_path / "long", 2) == "line 99998\nline 99999"
    (tmp_path / "empty").write_text("")
    assert "empty" in machine.tail(tmp_path / "empty", 2)
    assert "No such file" in machine.tail(tmp_path / "none", 2)


def test_patience_ends() -> None:
    """A wait ends after its own limit; the verb's limit is an error."""
    assert len(list(Patience().ticks("x", 0.0, Silence()))) == 1
    with pytest.raises(DeadlineError, match="--timeout"):
        list(Patience(0.05).ticks("x", 60, Silence()))


def test_the_dry_door_only_looks(tmp_path: Path) -> None:
    """It answers like the door behind it and refuses every action."""
    here, fake = project(tmp_path)
    dry = Dry(fake)
    assert dry.cores() == fake.cores()
    assert dry.open_files() == fake.open_files()
    assert dry.names(tmp_path) == fake.names(tmp_path)
    assert dry.read(here.places.table) == fake.read(here.places.table)
    assert dry.supervised() == fake.supervised()
    assert dry.listing(tmp_path) == fake.listing(tmp_path)
    assert dry.processes() == fake.processes()
    assert dry.free_port("127.0.0.1", [1]) == 1
    assert isinstance(dry.get("http://127.0.0.1:1/ready"), Missing)
    with pytest.raises(RuntimeError):
        dry.act(Forget(), Silence())
    assert isinstance(fake, Fake)
    assert not fake.acted
