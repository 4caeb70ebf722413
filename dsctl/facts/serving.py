"""What a replica and the gateway say about themselves, and the replica table between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from dsctl.base.missing import Missing
from dsctl.base.step import Row


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """GET /server_info of one replica."""

    state: str  # starting | ready | restarting | draining | failed
    api_pid: int
    core_pids: tuple[int, ...]
    restarts: int
    numerics_id: str


@dataclass(frozen=True, slots=True)
class Table:
    """replicas.json."""

    generation: int
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row | Missing:
        """The line of one replica."""
        return next((row for row in self.rows if row.name == name), Missing(f"{name} is not in the table"))


@dataclass(frozen=True, slots=True)
class Front:
    """GET /-/status of the gateway: the generation it serves and what is in flight on each replica."""

    generation: int
    inflight: dict[str, int]
    health: dict[str, str]


def parse_server_info(text: str) -> ServerInfo | Missing:
    """Reads /server_info."""
    try:
        told = cast("dict[str, Any]", json.loads(text))
        return ServerInfo(
            state=str(told["state"]),
            api_pid=int(told["api_pid"]),
            core_pids=tuple(int(pid) for pid in told["core_pids"]),
            restarts=int(told["restarts"]),
            numerics_id=str(told["numerics_id"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"/server_info cannot be read: {error!r}")


def parse_table(text: str) -> Table | Missing:
    """Reads replicas.json."""
    try:
        told = cast("dict[str, Any]", json.loads(text))
        rows = tuple(
            Row(
                str(r["name"]),
                str(r["url"]),
                str(r["spec_hash"]),
                r["state"],
                int(r["weight"]),
                float(r.get("share", 0)),
            )
            for r in told["replicas"]
        )
        return Table(int(told["generation"]), rows)
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"the replica table cannot be read: {error!r}")


def parse_front(text: str) -> Front | Missing:
    """Reads the gateway's /-/status."""
    try:
        told = cast("dict[str, Any]", json.loads(text))
        replicas = cast("list[dict[str, Any]]", told["replicas"])
        return Front(
            generation=int(told["generation"]),
            inflight={str(r["name"]): int(r.get("inflight", 0)) for r in replicas},
            health={str(r["name"]): str(r.get("health", "")) for r in replicas},
        )
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"the gateway's status cannot be read: {error!r}")
