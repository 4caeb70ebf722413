"""An operator of the bed: a directory with dsctl.yaml and hosts.yaml, the command line, and clients at the front."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.fleet.bed.engine import docker
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import ROOT, Place

LOGINS = {"gpu01": "root", "gpu02": "op", "gpu03": "root"}  # who logs in where
BODY = {"model": "m", "messages": [{"role": "user", "content": "count"}], "max_tokens": 60, "seed": 7, "stream": True}


class Operator:
    """Runs dsctl for one project on some hosts of the bed."""

    def __init__(
        self, directory: Path, bed: Bed, project: str, port: int, place: Place, logins: Mapping[str, str] = LOGINS
    ) -> None:  # fmt: skip
        self.directory, self.bed, self.port, self.place = directory, bed, port, place
        self.hosts = [bed.host(name) for name in logins]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "known_hosts").write_text(Path(bed.known_hosts).read_text())
        hosts = {
            host.name: {"address": host.address, "user": logins[host.name], "identity": bed.key} for host in self.hosts
        }
        (directory / "hosts.yaml").write_text(yaml.safe_dump({"groups": {"nodes": list(hosts)}, "hosts": hosts}))
        self.settings: dict[str, Any] = {
            "project": project, "served_model_name": "m", "replicas": 2, "engine": {"kind": "oracle"},
            "gateway": {"no_auth": True}, "image": {"name": bed.image}, "placement": {"hosts": "nodes"},
            "front": {"port": port, "gateway_port": port + 10000}, "rollout": {"soak_s": 0.5},
        }  # fmt: skip
        self.save()

    def save(self, **changes: Any) -> None:
        """dsctl.yaml, with some settings changed, sections in part."""
        for name, value in changes.items():
            before = self.settings.get(name)
            self.settings[name] = {**before, **value} if isinstance(before, dict) else value
        (self.directory / "dsctl.yaml").write_text(yaml.safe_dump(self.settings))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line, begun."""
        return subprocess.Popen(
            [sys.executable, "-m", "dsctl", *arguments], cwd=self.directory, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> str:
        """The command line to its end; its whole output when it ends with `code`, AssertionError otherwise."""
        running = self.start(*arguments)
        out, err = running.communicate(timeout=300)
        assert running.returncode == code, f"dsctl {' '.join(arguments)}: {running.returncode}\n{out}\n{err[-6000:]}"
        return out + err

    def cut(self, after_steps: int, *arguments: str) -> bool:
        """kill -9 once so many steps have begun; False when it ended before."""
        running = self.start(*arguments)
        assert running.stderr is not None
        begun = 0
        for line in running.stderr:
            begun += "[" in line and "/" in line
            if begun > after_steps:
                running.send_signal(signal.SIGKILL)
                break
        running.communicate(timeout=300)
        return begun > after_steps

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        running = self.start("status", "--json")
        told: dict[str, Any] = json.loads(running.communicate(timeout=300)[0])
        return told

    def shell(self, number: int, *argv: str) -> str:
        """A command on one of its hosts, past dsctl."""
        return docker(self.place, "exec", self.hosts[number].container, *argv)

    def end(self) -> None:
        """Everything of the project goes, also what dsctl might have left."""
        self.start("down", "--yes", "--purge").communicate(timeout=300)
        label = f"label=dsctl.project={self.settings['project']}"
        for number in range(len(self.hosts)):
            left = self.shell(number, "docker", "ps", "-aq", "--filter", label).split()
            if left:
                self.shell(number, "docker", "rm", "-f", *left)


def ask(address: str, port: int) -> str:
    """One stream read to its end: the text; an error when it is not whole."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(BODY), headers)
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, f"{answer.status} {body[:300]}"
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", body[-400:]
    choices = [choice for event in events[:-1] for choice in json.loads(event).get("choices", [])]
    assert any(choice.get("finish_reason") for choice in choices), body[-400:]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass
class Clients:
    """Clients that ask both fronts without pause and remember every answer that was not the expected one."""

    addresses: list[str]
    port: int
    expected: str = ""
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self.expected = ask(self.addresses[0], self.port)
        assert self.expected
        self._threads = [threading.Thread(target=self._loop, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def _loop(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                text = ask(self.addresses[number % len(self.addresses)], self.port)
                self.asked += 1
                if text != self.expected:
                    self.wrong.append(f"altered: {text[:200]!r}")
            except (OSError, AssertionError, ValueError, http.client.HTTPException) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
