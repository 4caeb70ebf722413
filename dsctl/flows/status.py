"""What runs, in what state, and whether that is all of it; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.facts.programs import Label, Program
from dsctl.facts.serving import ServerInfo
from dsctl.flows.observe import observe
from dsctl.flows.project import Project
from dsctl.planning.observed import Observed

LOG_LINES = 3
OF_SUPERVISOR = {
    "STOPPED": "stopped",
    "STOPPING": "draining",
    "FATAL": "failed",
    "EXITED": "failed",
    "BACKOFF": "restarting",
}


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica as `status --json` shows it."""

    name: str
    state: str  # starting | ready | draining | restarting | failed | stopped
    url: str
    api_pid: int | None
    core_pids: list[int]
    restarts: int
    numerics_id: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole project, and what is wrong beside the replicas."""

    project: str
    url: str | None
    replicas: Sequence[ReplicaStatus]
    troubles: Sequence[str]

    @property
    def exit_code(self) -> Exit:
        """0 all ready and nothing else wrong, 4 some, 1 none or nothing deployed."""
        ready = [replica for replica in self.replicas if replica.state == "ready"]
        if not ready:
            return Exit.FAILED
        return Exit.OK if len(ready) == len(self.replicas) and not self.troubles else Exit.PARTIAL

    def as_json(self) -> dict[str, Any]:
        """The fields of the contract."""
        return {"project": self.project, "url": self.url, "replicas": [asdict(replica) for replica in self.replicas]}


def status(project: Project) -> Status:
    """Looks and sums up."""
    seen = observe(project)
    gateway = seen.gateway
    url = gateway.url if isinstance(gateway, Label) else None
    replicas = [_replica(label, seen) for label in seen.replicas.values()]
    troubles = _troubles(project, seen)
    troubles += [_story(project, r) for r in replicas if r.state in ("failed", "restarting")]
    return Status(project.places.project, url, replicas, troubles)


def _story(project: Project, replica: ReplicaStatus) -> str:
    """That a replica failed, with the last it said."""
    log = project.door.read(project.places.log(replica.name))
    said = [] if isinstance(log, Missing) else [line for line in log.splitlines() if line.strip()][-LOG_LINES:]
    head = f"{replica.name} is {replica.state}; dsctl logs {replica.name} shows more than its last words:"
    return "\n".join([head, *(f"    {line}" for line in said)]) if said else f"{replica.name} is {replica.state}"


def _replica(label: Label, seen: Observed) -> ReplicaStatus:
    info = seen.servers[label.name]
    program = seen.program(label.name)
    pid = program.pid if isinstance(program, Program) and program.pid else None
    if isinstance(info, Missing):
        return ReplicaStatus(label.name, _silent_state(label, seen), label.url, pid, [], 0, None)
    row = seen.row(label.name)
    is_draining = isinstance(row, Row) and row.state == "draining"
    state = _told_state(info, is_ready=label.name in seen.ready, is_draining=is_draining)
    return ReplicaStatus(
        label.name, state, label.url, info.api_pid, list(info.core_pids), info.restarts, info.numerics_id or None
    )


def _told_state(info: ServerInfo, *, is_ready: bool, is_draining: bool) -> str:
    """The state a replica tells; `ready` only when its /ready agrees."""
    if is_draining and info.state == "ready":
        return "draining"
    if info.state == "ready" and not is_ready:
        return "restarting"
    known = ("starting", "ready", "draining", "restarting", "failed")
    return info.state if info.state in known else "starting"


def _silent_state(label: Label, seen: Observed) -> str:
    """The state of a replica that does not answer."""
    program, row = seen.program(label.name), seen.row(label.name)
    if isinstance(program, Missing):
        return "restarting" if seen.orphans_of(label.name) else "stopped"
    was_ready = isinstance(row, Row) and row.state != "gated"
    return OF_SUPERVISOR.get(program.condition, "restarting" if was_ready else "starting")


def _troubles(project: Project, seen: Observed) -> list[str]:
    found: list[str] = []
    if not seen.labels:
        return [f"nothing is deployed as {project.places.project}: dsctl deploy"]
    if isinstance(seen.supervised, Missing):
        lost = sorted({process.program for process in seen.orphans})
        rest = f"; {', '.join(lost)} run unsupervised" if lost else ""
        found.append(f"supervisord is not running{rest}: dsctl deploy repairs this")
    elif lost := sorted({process.program for process in seen.orphans}):
        found.append(f"{', '.join(lost)} run without supervisord: dsctl deploy repairs this")
    if not seen.replicas:
        found.append("no replica is there: dsctl deploy, or dsctl scale N")
    if isinstance(seen.front, Missing):
        found.append(f"the gateway does not answer ({seen.front.reason}): dsctl logs gateway")
    return found
