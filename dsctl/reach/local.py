"""The door to this machine: looks at its files and processes, and carries out steps on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.places import Places, private_dir
from dsctl.base.step import (
    Action,
    AwaitGateway,
    AwaitReady,
    Drain,
    Forget,
    Gate,
    MakeState,
    RemoveFile,
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
from dsctl.reach import http, machine, waits
from dsctl.reach.door import RawProcess, Reply
from dsctl.reach.patience import Patience
from dsctl.reach.supervisor import Supervisor

Hand = Callable[[Any, Voice], None]


class Local:
    """This machine, for one project."""

    def __init__(self, places: Places, python: str, patience: Patience) -> None:
        self._places, self._python, self._patience = places, python, patience
        self._supervisor = Supervisor(places.socket)
        self._hands: dict[type[Any], Hand] = {
            MakeState: self._make_state,
            WriteFile: self._write_file,
            RemoveFile: self._remove_file,
            StartSupervisor: self._start_supervisor,
            StopSupervisor: self._stop_supervisor,
            StartProgram: self._start_program,
            StopProgram: self._stop_program,
            Terminate: self._terminate,
            SetTable: self._set_table,
            Unlist: self._unlist,
            AwaitGateway: self._await_gateway,
            AwaitReady: self._await_ready,
            Gate: self._gate,
            Drain: self._drain,
            Forget: self._forget,
        }

    # looking

    def read(self, path: Path) -> str | Missing:
        """The text of a file."""
        return machine.read(path)

    def names(self, directory: Path) -> Sequence[str]:
        """The names in a directory."""
        return machine.names(directory)

    def listing(self, directory: Path) -> str | Missing:
        """A checkpoint's files."""
        return machine.listing(directory)

    def get(self, url: str, token: Path | None = None) -> Reply | Missing:
        """GET, with the bearer token in that file."""
        return http.get(url, http.token(token) if token else None)

    def supervised(self) -> str | Missing:
        """supervisord's pid and programs."""
        return self._supervisor.describe()

    def processes(self) -> Sequence[RawProcess]:
        """All processes of this user."""
        return machine.processes()

    def free_port(self, host: str, candidates: Sequence[int]) -> int:
        """The first free one."""
        return machine.free_port(host, candidates)

    def cores(self) -> int:
        """Cores this process may use."""
        return machine.cores()

    def open_files(self) -> int:
        """Most file descriptors of a program."""
        return machine.open_files()

    # acting

    def act(self, action: Action, voice: Voice) -> None:
        """Carries out one action after checking that it is still needed; a system that refuses is a DsctlError."""
        self._patience.check()
        try:
            self._hands[type(action)](action, voice)
        except OSError as error:
            raise machine.refusal(error) from error

    def _make_state(self, _action: MakeState, _voice: Voice) -> None:
        places = self._places
        for directory in (places.root, places.gateway, places.logs, places.supervisor, places.programs):
            private_dir(directory)
        machine.make_token(places.replica_token)
        machine.make_token(places.admin_token)

    def _write_file(self, action: WriteFile, _voice: Voice) -> None:
        machine.write(action.path, action.text)

    def _remove_file(self, action: RemoveFile, _voice: Voice) -> None:
        action.path.unlink(missing_ok=True)

    def _start_supervisor(self, _action: StartSupervisor, voice: Voice) -> None:
        places = self._places
        if not isinstance(self._supervisor.describe(), Missing):
            return
        private_dir(places.socket.parent)
        argv = [self._python, "-m", "supervisor.supervisord", "-c", str(places.supervisor_conf)]
        marks = {"DSCTL_HOME": str(places.home), "DSCTL_PROJECT": places.project, "DSCTL_PROGRAM": "supervisord"}
        done = machine.daemon(argv, places.supervisor, marks)
        if done.returncode == 0:
            for _ in self._patience.ticks("supervisord", 30, voice):
                if not isinstance(self._supervisor.describe(), Missing):
                    return
        log = machine.tail(places.supervisor / "supervisord.log", 10)
        why = (done.stderr or done.stdout).strip() or log
        raise DsctlError(f"supervisord does not start with {places.supervisor_conf}", why=why)

    def _stop_supervisor(self, action: StopSupervisor, voice: Voice) -> None:
        told = self._supervisor.describe()
        if isinstance(told, Missing):
            return
        pid = int(json.loads(told)["pid"])
        started = machine.start_time(pid)
        self._supervisor.call("shutdown")
        for _ in self._patience.ticks("the programs to end", action.timeout_s, voice):
            if machine.start_time(pid) != started:
                return
        raise DsctlError(f"supervisord (pid {pid}) does not end", hint="dsctl down again, or kill it")

    def _start_program(self, action: StartProgram, voice: Voice) -> None:
        path = self._places.program_conf(action.name)
        found = self._supervisor.program(action.name)
        if found and found["statename"] in ("RUNNING", "STARTING") and machine.read(path) == action.text:
            return
        if found:
            self._end_program(action.name, voice)
        machine.write(path, action.text)
        self._remember(action.name, action.port)
        self._supervisor.adopt(action.name)

    def _stop_program(self, action: StopProgram, voice: Voice) -> None:
        if not isinstance(self._supervisor.describe(), Missing):
            self._end_program(action.name, voice)
        self._places.program_conf(action.name).unlink(missing_ok=True)

    def _end_program(self, name: str, voice: Voice) -> None:
        """Stops a program of supervisord, waits for its end and makes supervisord forget it."""
        if self._supervisor.program(name) is None:
            return
        self._supervisor.stop(name)
        for _ in self._patience.ticks(f"{name} to end", 60, voice):
            found = self._supervisor.program(name)
            if found is None or found["statename"] in ("STOPPED", "EXITED", "FATAL", "UNKNOWN"):
                self._supervisor.forget(name)
                return
            if found["statename"] == "BACKOFF":
                self._supervisor.stop(name)
        raise DsctlError(f"{name} does not end", hint=f"dsctl logs {name}")

    def _terminate(self, action: Terminate, _voice: Voice) -> None:
        machine.end(action.pid, action.started, action.grace_s)

    def _remember(self, name: str, port: int) -> None:
        kept = machine.read(self._places.ports)
        ports = cast("dict[str, int]", json.loads(kept)) if isinstance(kept, str) else {}
        machine.write(self._places.ports, json.dumps(ports | {name: port}, indent=1) + "\n")

    def _set_table(self, action: SetTable, voice: Voice) -> None:
        self._write_table([asdict(row) for row in action.rows], action.front, voice)

    def _unlist(self, action: Unlist, voice: Voice) -> None:
        rows = [row for row in self._table()[1] if row["name"] not in action.names]
        self._write_table(rows, action.front, voice)

    def _table(self) -> tuple[int, list[dict[str, Any]]]:
        text = machine.read(self._places.table)
        if isinstance(text, Missing):
            return 0, []
        told = cast("dict[str, Any]", json.loads(text))
        return int(told["generation"]), cast("list[dict[str, Any]]", told["replicas"])

    def _write_table(self, rows: list[dict[str, Any]], front: str, voice: Voice) -> None:
        generation, before = self._table()
        if rows != before or not generation:
            generation += 1
            text = json.dumps({"generation": generation, "replicas": rows}, indent=1) + "\n"
            machine.write(self._places.table, text)
        waits.taken_up(front, generation, self._places.admin_token, self._patience, voice)

    def _await_gateway(self, action: AwaitGateway, voice: Voice) -> None:
        waits.gateway(action, self._supervisor, self._places, self._patience, voice)

    def _await_ready(self, action: AwaitReady, voice: Voice) -> None:
        waits.ready(action, self._supervisor, self._places, self._patience, voice)

    def _gate(self, action: Gate, voice: Voice) -> None:
        waits.gate(action, self._places, self._patience, voice)

    def _drain(self, action: Drain, voice: Voice) -> None:
        waits.drained(action, self._places, self._patience, voice)

    def _forget(self, _action: Forget, _voice: Voice) -> None:
        places = self._places
        if places.socket.parent != places.supervisor:
            shutil.rmtree(places.socket.parent, ignore_errors=True)
        shutil.rmtree(places.root, ignore_errors=True)
