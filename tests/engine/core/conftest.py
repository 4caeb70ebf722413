"""Core processes for tests: started, spoken to, and surely ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.spec.config import EngineConfig
from engine.wire.frames import Channel
from engine.wire.messages import Beat, Ready, Start, Step, ToServer
from tests.engine.checkpoints import make_checkpoint

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0


class Core:
    """One core process and our end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.core", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        self.socket = ours
        self.channel: Channel[Any] = Channel(ours, ToServer)
        self.beats: list[Beat] = []
        self._read: list[Any] = []

    def start(self, model: Path | str, faults: dict[str, float] | None = None, **settings: Any) -> None:
        config = EngineConfig(**{"model": str(model), "dtype": "float32", "threads": 1, **settings})
        self.channel.send(Start(config, epoch=3, faults=faults or {}))

    def next(self, kind: Any) -> Any:
        """The next message of a kind; beats are kept aside, others are dropped. None when the socket closes."""
        while True:
            if not self._read:
                self._read = self.channel.receive()
                if not self._read:
                    return None
            message = self._read.pop(0)
            if isinstance(message, Beat):
                self.beats.append(message)
            if isinstance(message, kind):
                return message

    def ready(self) -> Ready:
        message = self.next(Ready)
        assert message is not None, f"the core ended with {self.process.wait(DEADLINE_S)} before it was ready"
        return message

    def follow(self, *seqs: int) -> dict[int, list[Any]]:
        """Deltas by sequence until each of `seqs` has ended."""
        deltas: dict[int, list[Any]] = {seq: [] for seq in seqs}
        while not all(found and found[-1].finished for found in deltas.values()):
            step = self.next(Step)
            assert step is not None, "the core ended"
            for delta in step.deltas:
                deltas[delta.seq].append(delta)
        return deltas

    def close(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def spawn() -> Iterator[Callable[[], Core]]:
    """Starts cores; the test's end is theirs."""
    cores: list[Core] = []

    def start() -> Core:
        cores.append(Core())
        return cores[-1]

    yield start
    for core in cores:
        core.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_checkpoint(tmp_path_factory.mktemp("core") / "tiny", "v3")
