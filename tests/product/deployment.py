"""One real deployment under a home of its own, driven through the command line as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class Deployment:
    """A directory with dsctl.yaml, a $DSCTL_HOME, and the verbs."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self.home = home
        self.project = home / "dsctl"
        directory.mkdir(parents=True, exist_ok=True)
        hidden = ("DSCTL_", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {
            "DSCTL_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TERM": "dumb",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A verb, in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "dsctl", *arguments],
            cwd=self.directory, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """A verb, to its end; fails with all it said when the exit code is another one."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=110)
        assert process.returncode == expect, f"exit {process.returncode}\n{stdout}\n{stderr}\n{self.logs()}"
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def configure(self, text: str) -> None:
        """Writes dsctl.yaml."""
        (self.directory / "dsctl.yaml").write_text(text)

    def status(self, expect: int = 0) -> dict[str, Any]:
        """`status --json`."""
        return json.loads(self.run("status", "--json", expect=expect).stdout)

    def names(self) -> list[str]:
        """The replicas that are ready."""
        process = self.start("status", "--json")
        told = json.loads(process.communicate(timeout=60)[0])
        return [replica["name"] for replica in told["replicas"] if replica["state"] == "ready"]

    def complete(self, url: str, key: str = "") -> int | str:
        """The HTTP status of one completion through the front."""
        return complete(url, key)

    def logs(self) -> str:
        """The ends of all logs, for a failing test."""
        found = sorted(self.project.glob("logs/*.log")) + sorted(self.project.glob("supervisor/*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in found)

    def processes(self) -> dict[int, str]:
        """pid → program of everything that runs for this home."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            names = [item[14:].decode() for item in environ if item.startswith(b"DSCTL_PROGRAM=")]
            if names and state not in "ZX" and f"DSCTL_HOME={self.home}".encode() in environ:
                found[int(entry.name)] = names[0]
        return found

    def pid(self, program: str) -> int:
        """The process of a program."""
        return min(pid for pid, name in self.processes().items() if name == program)

    def end(self) -> None:
        """down --purge, and proof that nothing is left."""
        self.run("down", "--purge", "--yes", "-q")
        wait_for(lambda: not self.processes(), "all processes to end")


class Load:
    """Clients that complete through the front, one after another, until told to stop."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.statuses: list[int | str] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def _work(self) -> None:
        while not self._stop.is_set():
            self.statuses.append(complete(self._url))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def complete(url: str, key: str = "") -> int | str:
    """The HTTP status of one completion; what is wrong with it when the connection breaks or no token came."""
    body = json.dumps({"model": "dsctl-tiny", "prompt": "1 + 1 =", "max_tokens": 3}).encode()
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(f"{url}/v1/completions", body, headers), timeout=60) as answer:
            told = json.load(answer)
            return answer.status if told["usage"]["completion_tokens"] > 0 else json.dumps(told)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, HTTPException) as error:
        return repr(error)


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    """Polls until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.1)
