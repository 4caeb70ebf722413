"""Real processes for tests and benchmarks of the request path: replicas, a gateway, and a restarter."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 60.0
ADMIN = "admin-secret"
PORTS = range(20000, 32000)
_untried = iter(random.SystemRandom().sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A port nobody uses now, below those kernels hand out to outgoing connections: a restart finds it free again."""
    for port in _untried:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(errno.EADDRINUSE, f"no port free in {PORTS.start}-{PORTS.stop - 1}")


def until(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """Poll until the condition is true; raises TimeoutError naming it."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


class Program:
    """One child process that prints `ready URL` when it is."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self.arguments = arguments
        self.starts = 0
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, without waiting."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self._out.open("wb") as out, self._err.open("ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, *self.arguments], stdout=out, stderr=err, cwd=ROOT, env=environment
            )
        self.starts += 1

    def url(self, timeout_s: float = WAIT_S) -> str:
        """The URL it printed; waits for it."""

        def printed() -> str:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended: {self.errors()[-2000:]}")
            for line in self._out.read_text().splitlines():
                if line.startswith("ready "):
                    return line.split()[1]
            return ""

        return str(until(f"{self.name} is ready", printed, timeout_s))

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.is_running and self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Kill it, stopped or not."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(WAIT_S)


class Rig:
    """A gateway before some replicas, in one folder."""

    def __init__(
        self,
        folder: Path,
        replicas: int = 2,
        *,
        replica_options: list[str] | None = None,
        gateway_options: list[str] | None = None,
        replica_module: str = "dsctl.oracle",
        ledgers: bool = True,
    ) -> None:
        self.folder = folder
        self.generation = 0
        self.is_real = replica_module != "dsctl.oracle"
        self.states: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        self.replicas: dict[str, Program] = {}
        (folder / "admin.token").write_text(ADMIN)
        (folder / "replica.token").write_text("replica-secret")
        for number in range(1, replicas + 1):
            name = f"r{number}"
            port = free_port()
            arguments = ["-m", replica_module, "--name", name, "--port", str(port), *(replica_options or [])]
            arguments += ["--token-file", str(folder / "replica.token")]
            if ledgers:
                arguments += ["--ledger", str(folder / "engine.jsonl")]
            self.replicas[name] = Program(name, arguments, folder)
            self.urls[name] = f"http://127.0.0.1:{port}"
            self.states[name] = "active"
        arguments = ["-m", "dsctl.gateway", "--state-dir", str(folder), "--port", str(free_port())]
        if ledgers:
            arguments += ["--ledger", str(folder / "gateway.jsonl")]
        arguments += gateway_options or []
        self.gateway = Program("gateway", arguments, folder)
        self.url = ""
        self.client = httpx.Client(timeout=WAIT_S)

    def __enter__(self) -> Self:
        """Start everything; a rig that runs already is left as it is."""
        if self.url:
            return self
        for program in self.replicas.values():
            program.start()
        self.publish()
        self.gateway.start()
        try:
            self.url = self.gateway.url()
            self.wait_healthy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        self.client.close()
        for program in [self.gateway, *self.replicas.values()]:
            program.signal(signal.SIGCONT)
            program.end()

    def publish(self, generation: int | None = None, **states: str) -> None:
        """Write the replica table; the generation rises unless it is given."""
        self.states.update(states)
        self.generation = self.generation + 1 if generation is None else generation
        rows = [
            {"name": name, "url": self.urls[name], "state": state, "weight": 1.0, "spec_hash": "x"}
            for name, state in self.states.items()
            if state != "absent"
        ]
        staged = self.folder / "replicas.json.new"
        staged.write_text(json.dumps({"generation": self.generation, "replicas": rows}))
        staged.replace(self.folder / "replicas.json")

    def status(self) -> dict[str, Any]:
        """/-/status."""
        answer = self.client.get(f"{self.url}/-/status", headers={"authorization": f"Bearer {ADMIN}"})
        return dict(answer.json())

    def health(self) -> dict[str, str]:
        """Health of each replica as the gateway judges it."""
        return {row["name"]: row["health"] for row in self.status()["replicas"]}

    def wait_healthy(self, *names: str) -> None:
        """Wait until the named replicas (all, when none is named) are healthy."""
        wanted = names or tuple(name for name, state in self.states.items() if state != "absent")
        until(f"{wanted} healthy", lambda: all(self.health().get(name) == "healthy" for name in wanted))

    def wait_generation(self, generation: int) -> None:
        """Wait until the gateway follows a table."""
        until(f"generation {generation}", lambda: self.status()["generation"] == generation)

    def fault(self, name: str, *switches: str) -> None:
        """Set the fault switches of an oracle; none clears them."""
        headers = {"authorization": "Bearer replica-secret"}
        self.client.post(f"{self.urls[name]}/-/fault", content=" ".join(switches), headers=headers).raise_for_status()

    def info(self, name: str) -> dict[str, Any]:
        """/server_info of a replica."""
        headers = {"authorization": "Bearer replica-secret"}
        return dict(self.client.get(f"{self.urls[name]}/server_info", headers=headers, timeout=2.0).json())

    def restart(self, name: str) -> None:
        """Start a dead replica again on its port and wait until the gateway uses it."""
        program = self.replicas[name]
        program.end()
        program.start()
        program.url()
        self.wait_healthy(name)

    def metrics(self) -> dict[str, float]:
        """/metrics as name{labels} → value."""
        lines = self.client.get(f"{self.url}/metrics").text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in pairs}
