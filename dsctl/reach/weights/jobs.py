"""What a short-lived container is told to do with weights, and the status file in which it says how far it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dsctl.facts.manifest import CHUNK

BEAT_S = 0.5  # a status file that is older than a few of these has lost its writer


class Serve(msgspec.Struct, frozen=True, tag=True):
    """Serves ranges of `directory` over TLS to whoever has the token, until it is told that they are done."""

    directory: str
    status: str
    address: str
    certificate: str  # PEM files
    key: str
    token: str  # in use by the first session that shows it, and by no other
    rate: float = 0.0  # most bytes a second; 0: no cap
    idle_s: float = 120.0  # without a request for so long it ends
    deadline_s: float = 86400.0  # and then in any case
    port: int = 0
    chunk: int = CHUNK
    memory: str = ""  # a file with hashes of unchanged files


class Receive(msgspec.Struct, frozen=True, tag=True):
    """Makes `directory` what the root says, from one peer."""

    directory: str
    status: str
    address: str
    port: int
    certificate: str  # PEM file: the one certificate that is believed
    token: str
    root: str
    lanes: int = 4  # connections at once
    patience_s: float = 20.0  # without a byte for so long, the peer is given up
    deadline_s: float = 86400.0


class Pull(msgspec.Struct, frozen=True, tag=True):
    """Makes `directory` what a mirror serves under `url`."""

    directory: str
    status: str
    url: str  # …/resolve/REVISION
    token: str = ""
    proxy: str = ""
    rate: float = 0.0
    deadline_s: float = 86400.0


class Check(msgspec.Struct, frozen=True, tag=True):
    """Hashes everything in `directory` and compares it with its manifest."""

    directory: str
    status: str
    deadline_s: float = 86400.0


Job = Serve | Receive | Pull | Check


class Status(msgspec.Struct, frozen=True):
    """How far a job is."""

    state: str = "running"  # running | ready (it serves) | done | failed
    kind: str = ""  # of a failure: space | peer | source | failed
    error: str = ""
    root: str = ""
    port: int = 0
    total: int = 0  # bytes of everything
    present: int = 0  # that were there before
    moved: int = 0  # that came, verified
    again: int = 0  # chunks that came wrong and were asked for again
    bad: Sequence[str] = ()  # what a check found
    beat: float = 0.0  # time.time() of the writer


class Telling:
    """Writes the status every half second from a thread of its own, so that a slow disk is no silence."""

    def __init__(self, path: str, status: Status) -> None:
        self._path = Path(path)
        self._status = status
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """As last told."""
        return self._status

    def tell(self, **changes: object) -> None:
        """Some fields have changed."""
        with self._lock:
            self._status = msgspec.structs.replace(self._status, **changes)

    def add(self, *, moved: int = 0, present: int = 0, again: int = 0) -> None:
        """More of these."""
        with self._lock:
            now = self._status
            self._status = msgspec.structs.replace(
                now, moved=now.moved + moved, present=now.present + present, again=now.again + again
            )

    def end(self, **changes: object) -> None:
        """The last word, on disk when this returns."""
        self._ended.set()
        self._thread.join()
        self.tell(**changes)
        self._write()

    def flush(self) -> None:
        """On disk when this returns."""
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._status = msgspec.structs.replace(self._status, beat=time.time())
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            try:
                fresh.write_bytes(msgspec.json.encode(self._status))
                fresh.replace(self._path)
            except OSError:
                fresh.unlink(missing_ok=True)  # a full disk: the next beat tries again


def read_status(text: str | bytes) -> Status:
    """A status file; one that is not there yet is a job that runs."""
    try:
        return msgspec.json.decode(text, type=Status)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Status()


def read_job(text: bytes) -> Job:
    """A job file."""
    return msgspec.json.decode(text, type=Job)
