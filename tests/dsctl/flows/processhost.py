"""A fleet whose containers are real processes of this machine: oracle replicas and gateways on loopback addresses.

Only SSH, Docker and nginx are replaced; gateways, replicas, gates, shares and clients are the product's own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.rig import ROOT
from dsctl.base.container import ContainerSpec
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, HostFacts
from dsctl.reach.fakehost import FakeFleet, FakeHost
from dsctl.reach.hostdoor import Ran
from tests.dsctl.planning import fleets

STATE = "/var/lib/dsctl"
PACE = ("--ttft-ms", "300", "--itl-ms", "5")
MOST_RESTARTS = 3


@dataclass
class Running:
    """A container's specification and the process it is."""

    spec: ContainerSpec
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    is_wanted: bool = False


@dataclass
class ProcessFleet:
    """Hosts a, b, c, each with an address of its own in 127/8; `faults` says what an image does to the oracle."""

    folder: Path
    names: tuple[str, ...] = ("a", "b", "c")
    faults: dict[str, str] = field(default_factory=dict)  # image → $DSCTL_ORACLE_FAULT; "exit": it never starts
    running: dict[str, Running] = field(default_factory=dict)  # container id → process
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        net = f"127.{random.randrange(16, 250)}.{random.randrange(250)}"
        self.addresses = {name: f"{net}.{number}" for number, name in enumerate(self.names, 1)}
        self.fake = FakeFleet({
            name: fleets.host(name, number, address=self.addresses[name]) for number, name in enumerate(self.names)
        })  # fmt: skip

    def door(self, name: str) -> ProcessHost:
        """To one host."""
        return ProcessHost(self, name)

    def close(self) -> None:
        """Ends every process."""
        for each in self.running.values():
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
        for each in self.running.values():
            if each.process is not None:
                each.process.wait(60)


class ProcessHost(FakeHost):
    """The door to one host: files are also on disk, containers are processes."""

    def __init__(self, fleet: ProcessFleet, name: str) -> None:
        super().__init__(fleet.fake.machines[name], "prod")
        self._fleet, self._root = fleet, fleet.folder / name

    def facts(self) -> HostFacts | Missing:
        """The machine's, with its processes as they are."""
        self.containers()
        return super().facts()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Also on disk, where the processes read it."""
        super().write(path, text, mode)
        target = self._root / self.project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.new")
        staged.write_text(text)
        staged.replace(target)

    def containers(self) -> Sequence[Container]:
        """With the state of their processes; one that died is started again, a few times."""
        for name, found in list(self._machine.containers.items()):
            mine = self._fleet.running.get(found.id)
            if mine is None or mine.process is None:
                continue
            if mine.process.poll() is not None and mine.is_wanted and mine.restarts < MOST_RESTARTS:
                mine.restarts += 1
                self._spawn(mine)
            is_up = mine.process.poll() is None
            state, health = ("running", "healthy") if is_up else ("exited", "")
            code = mine.process.returncode or 0
            self._machine.containers[name] = replace(
                found, state=state, health=health, restarts=mine.restarts, exit_code=code
            )
        return super().containers()

    def create(self, spec: ContainerSpec) -> str:
        """Remembers the specification."""
        made = super().create(spec)
        self._fleet.running[made] = Running(spec)
        return made

    def start(self, container: str) -> None:
        """The process, unless it is nginx."""
        super().start(container)
        mine = self._fleet.running.get(container)
        if mine is not None and mine.spec.command[0] != "nginx" and not mine.is_wanted:
            mine.is_wanted = True
            self._spawn(mine)

    def stop(self, container: str, grace_s: int) -> None:
        """SIGTERM, then SIGKILL."""
        mine = self._fleet.running.get(container)
        if mine is not None and mine.process is not None:
            mine.is_wanted = False
            mine.process.terminate()
            try:
                mine.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                mine.process.kill()
                mine.process.wait(60)
        super().stop(container, grace_s)

    def run_in(self, container: str, argv: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0) -> Ran | Missing:
        """The same program, beside the container's process; what is meant for nginx goes to the gateway."""
        found = self._by_id(container) or self._machine.containers.get(container)
        if found is None or not found.is_running:
            return Missing(f"{container} does not run")
        if argv[0] == "nginx" or found.label("role") == "nginx":
            return Ran(0, "200\n")
        front = f"http://{found.label('address')}:{found.label('port')}/v1/"
        command = [
            front + word.partition("/v1/")[2] if word.startswith("http://127.0.0.1:8080/") else word for word in argv
        ]
        try:
            done = subprocess.run(
                self._local(command, self._fleet.running[found.id].spec), input=stdin, capture_output=True,
                timeout=timeout_s, env=self._environment({}), cwd=ROOT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Ran(124, "")
        return Ran(done.returncode, (done.stdout or done.stderr).decode())

    def logs(self, container: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """The end of the process's output."""
        _ = follow
        with suppress(OSError):
            yield from (self._root / f"{container.partition('@')[0]}.log").read_text().splitlines()[-lines:]

    def _spawn(self, mine: Running) -> None:
        spec = mine.spec
        fault = self._fleet.faults.get(spec.image, "") if "dsctl.oracle" in spec.command else ""
        command = self._local(spec.command, spec) + (list(PACE) if "dsctl.oracle" in spec.command else [])
        if fault == "exit":
            command = [sys.executable, "-c", "raise SystemExit('no such checkpoint')"]
        with (self._root / f"{spec.name}.log").open("ab") as log:
            environment = self._environment(
                {**spec.environment, "DSCTL_ORACLE_FAULT": "" if fault == "exit" else fault}
            )
            mine.process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 0.05
        while mine.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)

    def _local(self, argv: Sequence[str], spec: ContainerSpec) -> list[str]:
        """A command of a container as one of this machine: its interpreter, its mounts."""
        found: list[str] = []
        for word in argv:
            for mount in spec.mounts:
                word = word.replace(mount.target, mount.source.replace(STATE, str(self._root)))
            found.append(sys.executable if word == "python" else word)
        return found

    def _environment(self, own: dict[str, str]) -> dict[str, str]:
        mapped = {key: value for key, value in own.items() if not key.endswith("_TOKEN_FILE")}
        role = "front" if own.get("DSCTL_PROGRAM") == "gateway" else "replica"
        for key, value in own.items():
            if key.endswith("_TOKEN_FILE"):
                mapped[key] = value.replace("/run/secrets", f"{self._root}/{self.project}/secrets/{role}")
        return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **mapped}
