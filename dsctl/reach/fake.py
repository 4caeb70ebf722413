"""A machine that exists in memory: every action has its effect at once, faults are switched on by name; for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsctl.base.errors import GateError, PreflightError
from dsctl.base.missing import Missing
from dsctl.base.places import Places
from dsctl.base.step import (
    Action,
    AwaitReady,
    Drain,
    Forget,
    Gate,
    MakeState,
    RemoveFile,
    Row,
    SetTable,
    StartProgram,
    StartSupervisor,
    StopProgram,
    StopSupervisor,
    Terminate,
    Unlist,
    WriteFile,
)
from dsctl.base.voice import Voice
from dsctl.reach.door import RawProcess, Reply


class Fake:
    """Implements Door on plain dictionaries. Tests read and change its fields freely."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.files: dict[Path, str] = {}
        self.supervisor_pid = 0
        self.conditions: dict[str, str] = {}  # of programs supervisord knows: RUNNING, FATAL, …
        self.pids: dict[str, int] = {}  # of programs that run, under supervisord or not
        self.lost: set[str] = set()  # programs that run without supervisord
        self.ports: dict[str, int] = {}
        self.taken_ports: set[int] = set()
        self.refusing: set[str] = set()  # replicas that never become ready
        self.acted: list[Action] = []
        self.serving: list[list[str]] = []  # who could serve after each action
        self._next_pid = 100

    # looking

    def read(self, path: Path) -> str | Missing:
        """A file of this machine."""
        return self.files.get(path, Missing(f"{path}: no such file"))

    def names(self, directory: Path) -> Sequence[str]:
        """The files directly in a directory."""
        return sorted(path.name for path in self.files if path.parent == directory)

    def listing(self, directory: Path) -> str | Missing:
        """Every directory holds a checkpoint of the same content."""
        return json.dumps([["config.json", 2, str(directory)]])

    def get(self, url: str, token: Path | None = None) -> Reply | Missing:
        """What the program on that port answers."""
        _ = token
        port, _, path = url.removeprefix("http://").partition(":")[2].partition("/")
        name = next((n for n, p in self.ports.items() if p == int(port) and n in self.pids), None)
        if name is None:
            return Missing(f"{url}: connection refused")
        if path == "-/status":
            rows = [{**asdict(row), "inflight": 0, "health": "healthy"} for row in self.rows()]
            return Reply(200, json.dumps({"generation": self.generation(), "replicas": rows}))
        if name in self.refusing:
            return Reply(503, "{}")
        info: dict[str, Any] = {"state": "ready", "api_pid": self.pids[name], "core_pids": [], "restarts": 0}
        info["numerics_id"] = "n"
        return Reply(200, json.dumps(info))

    def supervised(self) -> str | Missing:
        """supervisord's word, while it lives."""
        if not self.supervisor_pid:
            return Missing("supervisord does not answer")
        return json.dumps({"pid": self.supervisor_pid, "programs": [self._info(name) for name in self.conditions]})

    def _info(self, name: str) -> dict[str, Any]:
        pid = self.pids.get(name, 0)
        return {"name": name, "statename": self.conditions[name], "pid": pid, "exitstatus": 0, "spawnerr": ""}

    def processes(self) -> Sequence[RawProcess]:
        """All programs with the marks in their environment."""
        found: list[RawProcess] = []
        for name, pid in self.pids.items():
            parent = 1 if name in self.lost else self.supervisor_pid
            fields = ["S", str(parent), *("0" for _ in range(17)), str(pid * 10)]
            marks = f"DSCTL_HOME={self.places.home}\0DSCTL_PROJECT={self.places.project}\0DSCTL_PROGRAM={name}\0"
            found.append(RawProcess(pid, f"{pid} (python) {' '.join(fields)}", marks.encode()))
        return found

    def free_port(self, host: str, candidates: Sequence[int]) -> int:
        """The first that no program of this machine uses."""
        used = self.taken_ports | {port for name, port in self.ports.items() if name in self.pids}
        for port in candidates:
            if port not in used:
                return port
        raise PreflightError(f"no free port on {host}")

    def cores(self) -> int:
        """Four."""
        return 4

    def open_files(self) -> int:
        """A usual limit."""
        return 65536

    def generation(self) -> int:
        """Of the replica table; 0 without one."""
        text = self.files.get(self.places.table)
        return int(json.loads(text)["generation"]) if text else 0

    def rows(self) -> list[Row]:
        """Of the replica table."""
        text = self.files.get(self.places.table)
        return [Row(**row) for row in json.loads(text)["replicas"]] if text else []

    def can_serve(self) -> list[str]:
        """Replicas that are active in the table and run."""
        return [row.name for row in self.rows() if row.state == "active" and row.name in self.pids]

    # what happens to a machine

    def lose_supervisor(self) -> None:
        """kill -9 of supervisord: what it ran runs on alone."""
        self.lost |= {name for name in self.conditions if name in self.pids}
        self.supervisor_pid, self.conditions = 0, {}

    def lose_program(self, name: str, condition: str) -> None:
        """A program ends and supervisord gives it up, or tries again."""
        self.pids.pop(name, None)
        self.conditions[name] = condition

    # acting

    def act(self, action: Action, voice: Voice) -> None:
        """The action's effect, at once."""
        _ = voice
        self.acted.append(action)
        match action:
            case MakeState():
                self.files.setdefault(self.places.admin_token, "admin")
                self.files.setdefault(self.places.replica_token, "replica")
            case WriteFile(path, text):
                self.files[path] = text
            case RemoveFile(path):
                self.files.pop(path, None)
            case Forget():
                self.files.clear()
            case AwaitReady(name) | Gate(name) if name in self.refusing:
                raise GateError(f"{name} is not ready")
            case _:
                self._act_on_programs(action)
        self.serving.append(self.can_serve())

    def _act_on_programs(self, action: Action) -> None:
        match action:
            case StartSupervisor():
                self.supervisor_pid = self.supervisor_pid or self._pid()
            case StopSupervisor():
                self.pids = {name: pid for name, pid in self.pids.items() if name in self.lost}
                self.supervisor_pid, self.conditions = 0, {}
            case StartProgram(name, text, port):
                self._start(name, text, port)
            case StopProgram(name):
                self._stop(name)
            case Terminate(name, pid) if self.pids.get(name) == pid:
                del self.pids[name]
                self.lost.discard(name)
            case SetTable(rows):
                self._write(list(rows))
            case Unlist(names):
                self._write([row for row in self.rows() if row.name not in names])
            case _:
                assert not isinstance(action, Drain) or action.name in {row.name for row in self.rows()}

    def _start(self, name: str, text: str, port: int) -> None:
        assert self.supervisor_pid, "a program is started before supervisord"
        assert name not in self.lost, "a program is started beside its own orphan"
        assert port not in self.taken_ports, "a program is started on a port somebody has"
        self.files[self.places.program_conf(name)] = text
        self.conditions[name], self.pids[name], self.ports[name] = "RUNNING", self._pid(), port

    def _stop(self, name: str) -> None:
        if self.conditions.pop(name, None):
            self.pids.pop(name, None)
        self.files.pop(self.places.program_conf(name), None)

    def _write(self, rows: list[Row]) -> None:
        if rows != self.rows() or not self.generation():
            table = {"generation": self.generation() + 1, "replicas": [asdict(row) for row in rows]}
            self.files[self.places.table] = json.dumps(table)

    def _pid(self) -> int:
        self._next_pid += 1
        return self._next_pid
