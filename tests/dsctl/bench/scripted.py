"""A server that says exactly what a test tells it to, byte by byte, and a worker that asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dsctl.bench import plan as plans
from dsctl.bench.loads import Level, Load
from dsctl.bench.plan import Plan, Target, Workload
from dsctl.bench.records import Record, decode

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 60.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
Play = Callable[[socket.socket, int, bytes], bool]  # (connection, number of the request, its body) → keep it open


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextmanager
def server(play: Play) -> Iterator[str]:
    """Serve on the loopback; `play` answers every request, numbered as they come."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    numbers = iter(range(10**9))

    def serve(connection: socket.socket) -> None:
        file = connection.makefile("rb")
        with connection, file:
            while line := file.readline():
                length = 0
                while line not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = file.readline()
                try:
                    if not play(connection, next(numbers), file.read(length)):
                        return
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(WAIT_S)


class Worker:
    """One load worker in a process of its own."""

    def __init__(self, folder: Path, url: str, load: Load, work: Workload | None = None, before: str = "") -> None:
        """`before` is Python that runs in the worker before its own code."""
        target = Target(url=url, model="m", timeout=WAIT_S)
        plans.save(Plan(target=target, load=load, workload=work or Workload()), folder / "plan.json")
        self.folder = folder
        code = f"import locust\n{before}\nfrom dsctl.bench.worker import main\nmain()"
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--folder", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        )  # fmt: skip

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it tells, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield msgspec.json.decode(line)

    def rows(self) -> list[Record]:
        """Wait for its end; its rows by number."""
        for _ in self.messages():
            pass
        assert self.process.wait(WAIT_S) == 0, (self.folder / "log").read_text()
        lines = (self.folder / "rows-0.jsonl").read_bytes().splitlines(keepends=True)
        return sorted((decode(line) for line in lines), key=lambda row: row.id)

    def end(self) -> None:
        """Nothing is left of it."""
        self._log.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)


@contextmanager
def working(folder: Path, url: str, load: Load, work: Workload | None = None, before: str = "") -> Iterator[Worker]:
    """A worker for as long as the test wants it."""
    worker = Worker(folder, url, load, work, before)
    try:
        yield worker
    finally:
        worker.end()


def one_by_one(count: int) -> Load:
    """One user, so many requests."""
    return Load(kind="closed", levels=[Level(1, 1e9)], requests=count, drain=WAIT_S)


def eventually(what: str, condition: Callable[[], Any]) -> None:
    """Poll; AssertionError naming what did not happen."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
