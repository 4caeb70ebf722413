"""The steps from what is to what is wished: start what is missing, replace what is outdated, drain what is too much.

The shape of every change: a new replica starts gated → ready → passes its gate → serves; an old one drains → ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dsctl.base.missing import Missing
from dsctl.base.places import Places
from dsctl.base.step import (
    AwaitGateway,
    AwaitReady,
    Drain,
    Gate,
    MakeState,
    Row,
    RowState,
    SetTable,
    StartProgram,
    StartSupervisor,
    Step,
    StopProgram,
    Terminate,
    Unlist,
    WriteFile,
)  # fmt: skip
from dsctl.facts.programs import Label, Program
from dsctl.facts.serving import Table
from dsctl.planning.observed import Observed, number
from dsctl.planning.rendering import program_conf, supervisord_conf
from dsctl.planning.wish import Wish, gateway_spec, replica_spec


@dataclass(frozen=True, slots=True)
class Ground:
    """What a plan stands on besides wish and facts: paths, the interpreter, free ports, the file limit."""

    places: Places
    python: str
    ports: Mapping[str, int]  # a free port for every name that may be started
    open_files: int


def plan(wish: Wish, seen: Observed, ground: Ground) -> list[Step]:
    """Every step of a deploy or a scale; empty when nothing is to be done."""
    return _Rollout(wish, seen, ground).steps()


def retreat(done: Sequence[Step], front: str) -> list[Step]:
    """The way back when a step failed: replicas that were started but never took traffic leave the table and end.

    `done` holds the steps carried out, the failed one last. What served before the first of them still serves.
    """
    pending: dict[str, None] = {}
    for step in done:
        if step.replica and isinstance(step.action, StartProgram | AwaitReady):
            pending[step.replica] = None
        elif isinstance(step.action, SetTable):
            for row in step.action.rows:
                if row.state == "active":
                    pending.pop(row.name, None)
    names = tuple(pending)
    if not names:
        return []
    stops = [Step(f"stop {name}; its log stays", StopProgram(name)) for name in names]
    return [Step(f"take {_list(names)} out of the table", Unlist(names, front)), *stops]


@dataclass(slots=True)
class _Sorted:
    """What each existing replica is to become."""

    kept: list[Label] = field(default_factory=lambda: list[Label]())  # current and serving
    resumed: list[Label] = field(default_factory=lambda: list[Label]())  # current, running, not through its gate yet
    outdated: list[Label] = field(default_factory=lambda: list[Label]())  # serving, to be replaced
    broken: list[Label] = field(default_factory=lambda: list[Label]())  # not serving
    surplus: list[Label] = field(default_factory=lambda: list[Label]())  # serving, too many once the resumed serve


class _Rollout:
    """Builds the list while keeping the table as it will be after each step."""

    def __init__(self, wish: Wish, seen: Observed, ground: Ground) -> None:
        self._wish, self._seen, self._ground = wish, seen, ground
        self._rows: dict[str, Row] = {}
        if isinstance(seen.table, Table):
            self._rows = {row.name: row for row in seen.table.rows if row.name in seen.replicas}
        self._found: list[Step] = []
        self._gateway = gateway_spec(wish, ground.ports["gateway"], ground.places, ground.python)
        self._front = self._gateway.label.url
        self._is_gateway_settled = False

    def steps(self) -> list[Step]:
        """The whole story, in order."""
        found = self._sort()
        self._lay_ground(found)
        for label in found.broken:
            self._discard(label)
        for label in found.kept:
            self._reopen(label)
        staying = found.kept + found.outdated + found.resumed
        fresh = self._names(self._wish.replicas - len(staying), {x.name for x in staying + found.surplus})
        self._bring_up(found.resumed + [self._launch(name, "") for name in fresh])
        for label in found.surplus:
            self._retire(label, "enough replicas serve without it")
        for label in found.outdated:
            self._replace(label)
        self._tidy()
        if self._found and self._wish.replicas:
            title = "send a completion through the front, as a client would"
            self._add(Step(title, Gate("", self._front, self._wish.model)))
        return self._found

    def _sort(self) -> _Sorted:
        found = _Sorted()
        for label in self._seen.replicas.values():
            self._group(label, found).append(label)
        room = max(0, self._wish.replicas - len(found.kept))
        found.broken += found.resumed[room:]
        found.resumed = found.resumed[:room]
        excess = max(0, len(found.kept) + len(found.outdated) + len(found.resumed) - self._wish.replicas)
        order = sorted(found.outdated, key=_number, reverse=True) + sorted(found.kept, key=_number, reverse=True)
        found.surplus = order[:excess]
        found.kept = [label for label in found.kept if label not in found.surplus]
        found.outdated = [label for label in found.outdated if label not in found.surplus]
        return found

    def _group(self, label: Label, found: _Sorted) -> list[Label]:
        row, program = self._seen.row(label.name), self._seen.program(label.name)
        is_running = isinstance(program, Program) and program.condition in ("RUNNING", "STARTING")
        is_current = label.spec_hash == self._wish.spec_hash
        has_traffic = isinstance(row, Row) and row.state != "gated"
        if is_running and is_current:
            return found.kept if has_traffic else found.resumed
        return found.outdated if has_traffic and (is_running or label.name in self._seen.ready) else found.broken

    def _names(self, count: int, taken: set[str]) -> list[str]:
        """The lowest free names, at most `count`."""
        free = (f"r{n}" for n in range(1, len(taken) + max(0, count) + 1) if f"r{n}" not in taken)
        return [name for name, _ in zip(free, range(max(0, count)), strict=False)]

    # parts of the story

    def _lay_ground(self, found: _Sorted) -> None:
        """State directories and supervisord."""
        seen, ground = self._seen, self._ground
        if not seen.has_state:
            self._add(Step(f"make {ground.places.root} with its tokens", MakeState()))
        for name in sorted({p.program for p in seen.orphans} - set(seen.labels) - {"gateway"}):
            self._terminate(name)  # an interrupted repair has forgotten it, so its name will be given away
        if not isinstance(seen.supervised, Missing):
            return
        why = "it is gone; what it ran is taken over" if seen.labels else ""
        for process in seen.supervisors:
            title = f"end supervisord (pid {process.pid}), which does not answer"
            self._add(Step(title, Terminate("supervisord", process.pid, process.started, grace_s=60.0)))
        conf = supervisord_conf(ground.places, ground.open_files)
        self._add(Step("write supervisord's configuration", WriteFile(ground.places.supervisor_conf, conf)))
        for name in sorted(seen.labels):  # what still runs must not be started a second time
            self._add(Step(f"take {name} out of supervisord's configuration", StopProgram(name)))
        for label in found.broken:
            self._terminate(label.name)
        self._add(Step("start supervisord", StartSupervisor(), why=why))

    def _settle_gateway(self) -> None:
        """Starts the gateway when it does not run as wished."""
        seen, label = self._seen, self._seen.gateway
        is_same = isinstance(label, Label) and label.spec_hash == self._gateway.label.spec_hash
        is_fine = is_same and seen.is_up("gateway") and not isinstance(seen.front, Missing)
        if self._is_gateway_settled or is_fine:
            return
        self._is_gateway_settled = True
        why = ""
        if isinstance(label, Label):
            why = "it does not answer under supervisord" if is_same else "its settings changed: clients see a break"
        self._terminate("gateway")
        text = program_conf(self._gateway, self._ground.places)
        start = StartProgram("gateway", text, self._gateway.label.port)
        self._add(Step(f"start the gateway on {self._front}", start, why=why))
        self._add(Step("wait for the gateway", AwaitGateway(self._front)))

    def _bring_up(self, labels: Sequence[Label]) -> None:
        """New replicas load together; each takes traffic when it has passed its gate."""
        for label in labels:
            self._rows[label.name] = Row(label.name, label.url, label.spec_hash, "gated")
        if labels:
            self._set_table(f"list {_list([x.name for x in labels])} as gated: only gate requests get there")
        self._settle_gateway()
        for label in labels:
            awaited = AwaitReady(label.name, label.url, self._wish.ready_timeout_s)
            self._add(Step(f"wait until {label.name} is ready", awaited, replica=label.name))
            gate = Gate(label.name, self._front, self._wish.model)
            self._add(Step(f"send a completion to {label.name} through the front", gate, replica=label.name))
            self._set_state(label.name, "active")
            self._set_table(f"let {label.name} take traffic")

    def _launch(self, name: str, why: str, port: int = 0) -> Label:
        ground = self._ground
        spec = replica_spec(self._wish, name, port or ground.ports[name], ground.places, ground.python)
        start = StartProgram(name, program_conf(spec, ground.places), spec.label.port)
        title = f"start {name} on {spec.label.url.removeprefix('http://')}"
        self._add(Step(title, start, why=why, replica=name))
        return spec.label

    def _reopen(self, label: Label) -> None:
        """A replica that stays: it takes traffic (again), and is waited for when it is not ready."""
        if self._rows[label.name].state != "active":
            self._set_state(label.name, "active")
            self._set_table(f"let {label.name} take traffic again")
        if label.name not in self._seen.ready:
            awaited = AwaitReady(label.name, label.url, self._wish.ready_timeout_s)
            self._add(Step(f"wait until {label.name} is ready again", awaited))

    def _replace(self, label: Label) -> None:
        """One outdated replica gives way to a new one."""
        is_current = label.spec_hash == self._wish.spec_hash
        why = f"{label.name} lost its supervisor" if is_current else f"{label.name} serves an older configuration"
        if self._wish.strategy == "drain-first":
            self._retire(label, why)
            self._bring_up([self._launch(label.name, why, label.port)])
            return
        [fresh] = self._names(1, set(self._rows))
        self._bring_up([self._launch(fresh, why)])
        self._retire(label, f"{fresh} serves in its place")

    def _retire(self, label: Label, why: str) -> None:
        """A replica that serves finishes what it has, then ends."""
        self._settle_gateway()
        self._set_state(label.name, "draining")
        self._set_table(f"give {label.name} nothing new", why)
        drain = Drain(label.name, self._front, self._wish.drain_timeout_s)
        self._add(Step(f"let {label.name} finish what it has", drain))
        self._end(label.name)
        del self._rows[label.name]
        self._set_table(f"take {label.name} out of the table")

    def _discard(self, label: Label) -> None:
        """A replica that does not serve ends at once."""
        program = self._seen.program(label.name)
        why = f"it is {program.condition.lower()}" if isinstance(program, Program) else program.reason
        if label.name in self._rows:
            del self._rows[label.name]
            self._set_table(f"take {label.name} out of the table", f"it does not serve: {why}")
        if not isinstance(self._seen.supervised, Missing):
            self._end(label.name, why)

    def _end(self, name: str, why: str = "") -> None:
        self._terminate(name)
        is_forgotten = isinstance(self._seen.supervised, Missing) and bool(self._seen.orphans_of(name))
        if not is_forgotten:
            self._add(Step(f"stop {name}", StopProgram(name), why=why))

    def _terminate(self, name: str) -> None:
        for process in self._seen.orphans_of(name):
            title = f"end {name} (pid {process.pid}), which runs without supervisord"
            self._add(Step(title, Terminate(name, process.pid, process.started)))

    def _tidy(self) -> None:
        """A table line or a process that belongs to nothing any more."""
        self._settle_gateway()
        table = self._seen.table
        if isinstance(table, Table) and {row.name for row in table.rows} - set(self._seen.replicas):
            self._set_table("take what does not exist out of the table")
        known = {step.action.pid for step in self._found if isinstance(step.action, Terminate)}
        for process in self._seen.orphans:
            if process.pid not in known:
                title = f"end {process.program} (pid {process.pid}), which belongs to nothing any more"
                self._add(Step(title, Terminate(process.program, process.pid, process.started)))

    # small pieces

    def _set_state(self, name: str, state: RowState) -> None:
        self._rows[name] = replace(self._rows[name], state=state)

    def _set_table(self, title: str, why: str = "") -> None:
        rows = sorted(self._rows.values(), key=lambda row: number(row.name))
        self._add(Step(title, SetTable(tuple(rows), self._front), why=why))

    def _add(self, step: Step) -> None:
        self._found.append(step)


def _number(label: Label) -> int:
    return number(label.name)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
