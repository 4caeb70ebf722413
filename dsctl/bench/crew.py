"""The worker processes of a run: started, listened to, stopped, and never left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from dsctl.base.errors import DsctlError
from dsctl.bench import plan as plans
from dsctl.bench.plan import Plan
from dsctl.bench.progress import Beat, Began, Ended, Message

SILENCE_S = 60.0  # a worker that says nothing for so long is lost
STOP_S = 20.0
PORTS = range(20000, 32000)  # below those that outgoing connections take
_decoder = msgspec.json.Decoder(Message)


@dataclass(slots=True)
class Member:
    """One process of the crew and the last it said."""

    process: subprocess.Popen[bytes]
    name: str
    log: Path
    beat: Beat | None = None
    began: Began | None = None
    ended: Ended | None = None
    is_gone: bool = False
    heard: float = field(default_factory=time.monotonic)

    @property
    def is_lost(self) -> bool:
        """It ended without its last word, or fell silent."""
        return self.ended is None and (self.is_gone or time.monotonic() - self.heard > SILENCE_S)


class Crew:
    """Workers 0 … n−1, and a locust master where they are several. Use as a context manager: leaving ends them all."""

    def __init__(self, plan: Plan, folder: Path, workers: int) -> None:
        self._folder = folder
        self._told: queue.Queue[tuple[Member, Message | None]] = queue.Queue()
        self._listeners: list[threading.Thread] = []
        plans.save(plan, folder / "plan.json")
        common = ["--folder", str(folder), "--workers", str(workers)]
        master: list[str] = []
        self._master: subprocess.Popen[bytes] | None = None
        if workers > 1:
            port = str(free_port())
            self._master, _ = self._start("master", ["dsctl.bench.master", *common, "--port", port])
            master = ["--master-port", port]
        self.members = [self._member(number, [*common, *master]) for number in range(workers)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _start(self, name: str, module: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
        log = self._folder / f"{name}.log"
        # A session of its own: Ctrl-C reaches the parent alone, which then stops its workers in order.
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        return process, log

    def _member(self, number: int, arguments: list[str]) -> Member:
        name = f"worker-{number}"
        process, log = self._start(name, ["dsctl.bench.worker", "--worker", str(number), *arguments])
        member = Member(process, name, log)
        assert process.stdout is not None
        listener = threading.Thread(target=self._listen, args=(member, process.stdout), daemon=True)
        listener.start()
        self._listeners.append(listener)
        return member

    def _listen(self, member: Member, lines: IO[bytes]) -> None:
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):  # not ours: a library that prints
                self._told.put((member, _decoder.decode(line)))
        self._told.put((member, None))

    def hear(self, tick_s: float = 1.0) -> Iterator[None]:
        """Yields about every `tick_s` until every worker has had its last word or is lost."""
        while not all(member.ended or member.is_lost for member in self.members):
            until = time.monotonic() + tick_s
            while (rest := until - time.monotonic()) > 0 and not all(one.ended for one in self.members):
                with contextlib.suppress(queue.Empty):
                    self._take(*self._told.get(timeout=rest))
            if any(member.is_lost for member in self.members):
                self._check_early_death()
                self.stop()
            yield

    def _take(self, member: Member, message: Message | None) -> None:
        member.heard = time.monotonic()
        if message is None:
            member.is_gone = True
        elif isinstance(message, Beat):
            member.beat = message
        elif isinstance(message, Began):
            member.began = message
        else:
            member.ended = message

    def _check_early_death(self) -> None:
        """DsctlError when a worker died before the run began: that is a defect or a missing part, not a measurement."""
        for member in self.members:
            if member.is_lost and member.began is None:
                said = member.log.read_text("utf-8", "replace").strip().splitlines()[-12:]
                raise DsctlError(f"{member.name} of the load ended before it began", why="\n".join(said))

    @property
    def lost(self) -> int:
        """Workers that ended without their last word."""
        return sum(member.ended is None for member in self.members)

    def stop(self) -> None:
        """Tell the workers to stop now; they write what they have."""
        for member in self.members:
            with contextlib.suppress(OSError, ValueError):
                assert member.process.stdin is not None
                member.process.stdin.write(b"stop\n")
                member.process.stdin.flush()

    def end(self) -> None:
        """No process is left: asked, then killed."""
        everyone = [member.process for member in self.members]
        everyone += [self._master] if self._master is not None else []
        for process in everyone:
            with contextlib.suppress(OSError, ValueError):
                assert process.stdin is not None
                process.stdin.close()
        deadline = time.monotonic() + (STOP_S if all(member.ended for member in self.members) else 3.0)
        for process in everyone:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for listener in self._listeners:
            listener.join(STOP_S)
        for process in everyone:
            if process.stdout is not None:
                process.stdout.close()
        for log in (*(member.log for member in self.members), self._folder / "master.log"):
            if log.is_file() and not log.stat().st_size:
                log.unlink()


def free_port() -> int:
    """A port that nobody uses now."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DsctlError(f"no free port between {PORTS.start} and {PORTS.stop} on this machine")
