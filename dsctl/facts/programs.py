"""What supervisord says about the programs it keeps, and the label every program's file opens with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from dsctl.base.missing import Missing

Condition = Literal["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"]
LABEL_MARK = "; dsctl "


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised program as supervisord sees it."""

    name: str
    condition: str  # one of Condition
    pid: int  # 0 when it does not run
    exit_status: int
    note: str  # supervisord's own remark, for example a spawn error

    @property
    def is_up(self) -> bool:
        """True while supervisord runs it or is about to."""
        return self.condition in ("STARTING", "RUNNING", "BACKOFF")


@dataclass(frozen=True, slots=True)
class Supervised:
    """supervisord answers: its pid and its programs by name."""

    pid: int
    programs: dict[str, Program]


@dataclass(frozen=True, slots=True)
class Label:
    """What dsctl wrote at the head of a program's file: what it is and which wish it fulfils."""

    name: str
    role: Literal["replica", "gateway"]
    host: str
    port: int
    spec_hash: str
    model: str  # the id clients use; empty for the gateway

    @property
    def url(self) -> str:
        """Where the program listens, as this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port}"

    def line(self) -> str:
        """The label as the first line of the program's file."""
        fields = {
            "name": self.name, "role": self.role, "host": self.host, "port": self.port,
            "spec": self.spec_hash, "model": self.model,
        }  # fmt: skip
        return f"{LABEL_MARK.removeprefix('; ')}{json.dumps(fields)}"


def parse_supervised(text: str) -> Supervised | Missing:
    """Reads {"pid", "programs": [getProcessInfo …]}."""
    try:
        told = cast("dict[str, Any]", json.loads(text))
        programs = [_program(info) for info in told["programs"]]
        return Supervised(int(told["pid"]), {program.name: program for program in programs})
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"supervisord answers what cannot be read: {error!r}")


def _program(info: dict[str, Any]) -> Program:
    return Program(
        name=str(info["name"]),
        condition=str(info["statename"]),
        pid=int(info["pid"]),
        exit_status=int(info["exitstatus"]),
        note=str(info.get("spawnerr") or info.get("description") or ""),
    )


def parse_label(text: str) -> Label | Missing:
    """Reads the first line of a program's file."""
    first = text.partition("\n")[0]
    if not first.startswith(LABEL_MARK):
        return Missing("no label in the first line")
    try:
        told = cast("dict[str, Any]", json.loads(first.removeprefix(LABEL_MARK)))
        return Label(
            name=str(told["name"]), role=told["role"], host=str(told["host"]), port=int(told["port"]),
            spec_hash=str(told["spec"]), model=str(told["model"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"the label cannot be read: {error!r}")
