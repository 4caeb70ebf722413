"""Starts and ends API processes for tests, and speaks to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

ROOT = Path(__file__).resolve().parents[3]
FAKE = "tests.engine.server.fake_core"
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll until the condition gives something true; fails the test when it never does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")


@dataclass
class Server:
    """A running API process."""

    process: subprocess.Popen[str]
    url: str
    model: str
    stderr: Path
    headers: dict[str, str] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False, timeout=PATIENCE_S))

    def get(self, path: str) -> httpx.Response:
        """GET."""
        return self.http.get(self.url + path, headers=self.headers)

    def post(self, path: str, body: Any, **extra: Any) -> httpx.Response:
        """POST JSON."""
        headers = self.headers | extra.pop("headers", {})
        return self.http.post(self.url + path, json=body, headers=headers, **extra)

    def complete(self, **body: Any) -> dict[str, Any]:
        """A completion that must succeed."""
        answer = self.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, path: str, body: Any) -> Iterator[tuple[str, Any]]:
        """The stream's lines: ("meta", object), ("data", object), ("done", None), ("beat", None)."""
        with self.http.stream("POST", self.url + path, json=body, headers=self.headers) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line.startswith(":{"):
                    yield "meta", json.loads(line[1:])
                elif line == "data: [DONE]":
                    yield "done", None
                elif line.startswith("data: "):
                    yield "data", json.loads(line[6:])
                elif line == ": hb":
                    yield "beat", None

    def client(self) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)

    def info(self) -> dict[str, Any]:
        """/server_info."""
        return self.get("/server_info").json()

    def core_pid(self) -> int:
        """The core that serves now."""
        return wait_until(lambda: self.info()["core_pids"], "a core")[0]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def wait_ready(self) -> None:
        """Until /ready says 200."""
        wait_until(lambda: self.get("/ready").status_code == 200, "readiness")

    def end(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()


def command(model: Path, *flags: str, core: str | None = FAKE) -> list[str]:
    """The command line of an API process."""
    chosen = ["--core-module", core] if core else []
    return [sys.executable, "-m", "engine.server", "--model", str(model), *chosen, *flags]


def environment() -> dict[str, str]:
    """One thread, and the checkout first on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def serving(
    model: Path, *flags: str, core: str | None = FAKE, faults: dict[str, float] | None = None
) -> Iterator[Server]:
    """An API process from ready to SIGTERM."""
    switches = [f"--fault={name}={value}" for name, value in (faults or {}).items()]
    with tempfile.NamedTemporaryFile("w+", suffix=".stderr") as log:
        process = subprocess.Popen(
            command(model, *flags, *switches, core=core),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("ready http://"), Path(log.name).read_text()
            _, url, name = line.split()
            server = Server(process, url, name.removeprefix("model="), Path(log.name))
            with server.http:
                yield server
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                finally:
                    process.kill()
                    process.wait()
            process.stdout.close()
