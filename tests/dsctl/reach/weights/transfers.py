"""Weights to send, and the two ends of a transfer as processes of their own."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dsctl.facts.manifest import Manifest
from dsctl.reach.weights import identity, index
from dsctl.reach.weights.jobs import Job, Receive, Serve, Status, read_status

CHUNK = 64 << 10
WAIT_S = 60.0


def weights(directory: Path, *, seed: int = 1, sizes: Sequence[int] = (3 * CHUNK + 17, 2 * CHUNK)) -> Manifest:
    """A directory that looks like a checkpoint; its manifest."""
    chosen = random.Random(seed)
    (directory / "sub").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "sub" / "empty.txt").write_text("")
    for number, size in enumerate(sizes):
        (directory / f"model-{number}.safetensors").write_bytes(chosen.randbytes(size))
    return index.build(directory, chunk=CHUNK)


class Ends:
    """Files for both ends of one transfer below a directory, and the processes started for it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        made = identity.make()
        self.token = made.token
        for name, text in (("certificate", made.certificate), ("key", made.key)):
            (directory / name).write_text(text)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, job: Job) -> subprocess.Popen[bytes]:
        """A process that does the job."""
        path = self.directory / f"{name}.json"
        path.write_bytes(msgspec.json.encode(job))
        Path(job.status).unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-m", "dsctl.reach.weights", str(path)])
        self.running.append(child)
        return child

    def serve(self, directory: Path, **options: object) -> subprocess.Popen[bytes]:
        """A sender that is ready; one that ran before is ended, as both would write one status."""
        self.close()
        child = self.start("serve", Serve(
            str(directory), str(self.directory / "serve.status"), "127.0.0.1", str(self.directory / "certificate"),
            str(self.directory / "key"), self.token, chunk=CHUNK, **options,
        ))  # fmt: skip
        self.until("serve", lambda status: status.state != "running")
        return child

    def job(self, target: Path, root: str, **options: object) -> Receive:
        """What a receiver is told."""
        target.mkdir(parents=True, exist_ok=True)
        status = str(self.directory / f"{target.name}.status")
        certificate = str(self.directory / "certificate")
        values = {"port": self.status("serve").port, "token": self.token, "patience_s": 3.0, **options}
        return Receive(directory=str(target), status=status, address="127.0.0.1", certificate=certificate, root=root,
                       **values)  # fmt: skip

    def receive(self, target: Path, root: str, **options: object) -> Status:
        """Receives to the end."""
        child = self.start(target.name, self.job(target, root, **options))
        child.wait(timeout=WAIT_S)
        return self.status(target.name)

    def status(self, name: str) -> Status:
        """What a job says."""
        path = self.directory / f"{name}.status"
        return read_status(path.read_bytes()) if path.exists() else Status()

    def until(self, name: str, told: object) -> Status:
        """Waits until its status is as wanted."""
        end = time.monotonic() + WAIT_S
        while not told(status := self.status(name)):  # type: ignore[operator]
            assert time.monotonic() < end, status
            time.sleep(0.02)
        return status

    def close(self) -> None:
        """Ends what still runs."""
        for child in self.running:
            if child.poll() is None:
                child.kill()
            child.wait()


def same(one: Path, other: Path) -> bool:
    """The same files with the same bytes, and nothing growing."""
    listed = index.names(one)
    growing = other / ".dsctl" / "parts"
    return listed == index.names(other) and not growing.exists() and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in listed
    )  # fmt: skip
