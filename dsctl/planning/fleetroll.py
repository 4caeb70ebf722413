"""The steps from a fleet as it is to the fleet that is wished; every change has the shape it has on one machine.

A new copy starts gated → ready → passes its gate → takes traffic → soaks; an old one drains → ends. Fewest copies that
serve at any moment are FleetWish.available; a plan that cannot keep that names it as a hazard instead of hiding it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dsctl.base.container import ContainerSpec, Copy, container_name
from dsctl.base.errors import PreflightError
from dsctl.base.fleetstep import (
    AwaitReady,
    Canary,
    Compare,
    Drain,
    EditTable,
    EndContainer,
    FleetAction,
    FleetStep,
    Gate,
    RunContainer,
    Soak,
)
from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.facts.host import Docker
from dsctl.planning.fleetground import Secrets, ground_steps, settle_fronts, wrap_up
from dsctl.planning.fleetseen import Found, Seen, number
from dsctl.planning.fleetwish import CanaryWish, FleetWish, replica_container
from dsctl.planning.names import Names, Ports
from dsctl.planning.placement import Pool, Slot, explain, rooms
from dsctl.planning.wish import REPLICA_STOP_S


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What a deploy would do, what should be known about it, and what it must ask for first."""

    steps: tuple[FleetStep, ...]
    warnings: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan needs besides wish and facts."""

    release: int  # number of the release the new copies belong to
    record: str = ""  # its record, pending; empty: nothing is recorded
    good: str = ""  # the same with its outcome
    copy_bytes: int = 0
    weights: tuple[FleetStep, ...] = ()  # that bring the checkpoint to hosts which lack it
    skips_unreachable: bool = False
    secrets: Secrets = field(default_factory=lambda: dict[str, tuple[str, str]]())


def plan_fleet(wish: FleetWish, seen: Seen, terms: Terms) -> FleetPlan:
    """Every step; none when the fleet is as wished. PreflightError when it cannot be reached from here."""
    return _Roll(wish, seen, terms).plan()


@dataclass(slots=True)
class _Sorted:
    kept: list[Found] = field(default_factory=lambda: list[Found]())  # current and listed
    resumed: list[Found] = field(default_factory=lambda: list[Found]())  # current, not through the gate yet
    outdated: list[Found] = field(default_factory=lambda: list[Found]())  # serving, to be replaced
    broken: list[Found] = field(default_factory=lambda: list[Found]())  # not serving
    surplus: list[Found] = field(default_factory=lambda: list[Found]())


class _Roll:
    """One plan being written: the steps so far and the table as they leave it."""

    def __init__(self, wish: FleetWish, seen: Seen, terms: Terms) -> None:
        self._wish, self._seen, self._terms = wish, seen, terms
        self._spec = wish.spec_hash
        self._steps: list[FleetStep] = []
        self._hazards: list[str] = []
        table = seen.table
        self._rows = {} if isinstance(table, Missing) else {row.name: row for row in table.rows}
        self._fronts = tuple(host for host in wish.fronts if not isinstance(seen.fleet.get(host), Missing | None))
        self._names = Names([*seen.copies, *self._rows])
        self._ports = Ports(seen, wish.first_port)
        self._lost = self._lost_copies()
        self._has_canary = False  # one of these settings stands already

    def plan(self) -> FleetPlan:
        """The whole story."""
        found = self._sort()
        broken = frozenset(each.name for each in found.broken)
        offered = rooms(self._wish, self._seen, self._terms.copy_bytes, without=broken)
        pool = Pool(offered, self._wish.spread)
        fresh = self._place(found, pool)
        self._check_roll(found, pool)
        ground = ground_steps(self._wish, self._seen, self._terms.record, self._terms.secrets)
        ground += self._terms.weights
        self._discard(found.broken)
        launched = [self._launch(slot, "") for slot in fresh]
        self._list_gated([*(self._row(each) for each in found.resumed), *(_row(spec) for spec in launched)])
        self._steps += settle_fronts(self._wish, self._seen, self._fronts)
        self._admit([*((each.name, each.host) for each in found.resumed), *((_name(s), h) for s, h in launched)])
        self._reopen(found.kept)
        if not (self._prove_again(found) and self._replace_all(found.outdated, pool)):
            return FleetPlan((*ground, *self._steps), hazards=tuple(self._hazards))
        for each in found.surplus:
            self._retire(each, "")
        self._tidy()
        steps = wrap_up(self._wish, self._seen, self._fronts, [*ground, *self._steps], self._terms.good)
        return FleetPlan(tuple(steps), hazards=tuple(self._hazards))

    # deciding

    def _lost_copies(self) -> list[str]:
        """Rows whose copy is on a host that cannot be asked: they are left alone and count as there."""
        if not any(isinstance(facts, Missing) for facts in self._seen.fleet.values()):
            return []
        return [name for name in self._rows if name not in self._seen.copies]

    def _sort(self) -> _Sorted:
        found = _Sorted()
        for each in self._seen.copies.values():
            self._group(each, found).append(each)
        have = len(found.kept) + len(self._lost)
        room = max(0, self._wish.replicas - have)
        found.broken += found.resumed[room:]
        found.resumed = found.resumed[:room]
        excess = max(0, have + len(found.outdated) + len(found.resumed) - self._wish.replicas)
        crowd: dict[str, int] = {}
        for each in [*found.kept, *found.outdated]:
            crowd[each.host] = crowd.get(each.host, 0) + 1
        order = sorted(found.outdated, key=lambda each: self._rank(each, crowd))
        order += sorted(found.kept, key=lambda each: self._rank(each, crowd))
        found.surplus = order[:excess]
        gone = {each.name for each in found.surplus}
        found.kept = [each for each in found.kept if each.name not in gone]
        found.outdated = [each for each in found.outdated if each.name not in gone]
        return found

    def _rank(self, each: Found, crowd: Mapping[str, int]) -> tuple[bool, bool, int, int]:
        """Who goes first when there are too many: on a cordoned host, not ready, on the fullest host, the newest."""
        is_open = isinstance(self._seen.file(each.host, "cordon"), Missing)
        return (is_open, each.is_ready, -crowd[each.host], -number(each.name))

    def _group(self, each: Found, found: _Sorted) -> list[Found]:
        row = self._rows.get(each.name)
        has_traffic = row is not None and row.state != "gated"
        is_running = each.container.is_running
        is_current = each.spec_hash == self._spec and each.host in self._wish.hosts
        if is_running and is_current and self._has_image(each):
            return found.kept if has_traffic else found.resumed
        return found.outdated if has_traffic and is_running else found.broken

    def _has_image(self, each: Found) -> bool:
        """It runs from the image that now has the wished name on its host."""
        docker = self._seen.facts(each.host).docker
        wanted = docker.images.get(self._wish.image, "") if isinstance(docker, Docker) else ""
        return wanted in ("", each.container.image)

    def _place(self, found: _Sorted, pool: Pool) -> list[tuple[Slot, ...]]:
        there = len(found.kept) + len(found.resumed) + len(found.outdated) + len(self._lost)
        wanted = max(0, self._wish.replicas - there)
        taken = [slots for slots in (pool.take(self._wish.nodes) for _ in range(wanted)) if slots]
        if len(taken) < wanted:
            why = "\n".join(explain(rooms(self._wish, self._seen, self._terms.copy_bytes)))
            raise PreflightError(
                f"{self._wish.replicas} copies do not fit: there is room for {there + len(taken)}",
                why=why or "every host is full", hint=f"dsctl scale {there + len(taken)}, or more hosts",
            )  # fmt: skip
        return taken

    def _check_roll(self, found: _Sorted, pool: Pool) -> None:
        """Refuses a surge without room; names what a drain-first change will cost."""
        if not found.outdated or pool.free:
            return
        if self._wish.strategy == "surge":
            raise PreflightError(
                "rollout.strategy is surge, and no slot is free for a new copy beside the old ones",
                why="\n".join(explain(rooms(self._wish, self._seen, self._terms.copy_bytes))),
                hint="rollout.strategy: auto, which drains one copy first",
            )
        serving = len(found.kept) + len(found.outdated) + len(self._lost)
        if serving - 1 < max(1, self._wish.available):
            self._hazards.append(
                f"no slot is free: while a copy is replaced {serving - 1} of {self._wish.replicas} serve"
                + (" and requests wait" if serving == 1 else "")
            )

    # parts of the story

    def _launch(self, slots: tuple[Slot, ...], why: str, name: str = "") -> tuple[ContainerSpec, str]:
        slot = slots[0]
        facts = self._seen.facts(slot.host)
        name = name or self._names.take()
        address = facts.address if isinstance(facts.address, str) else slot.host
        port = self._ports.take(slot.host)
        copy = Copy(self._wish.project, name, self._spec, address, port, slot.gpus, self._terms.release)
        cores = facts.cores if isinstance(facts.cores, int) else 1
        share = self._wish.max_per_host or -(-self._wish.replicas // max(1, len(self._wish.hosts)))
        spec = replica_container(self._wish, copy, facts, max(1, cores // max(1, share)))
        cards = f" with {len(slot.gpus)} cards" if slot.gpus else ""
        self._add(slot.host, f"start {name} on {slot.host}:{port}{cards}", RunContainer(spec), why, name)
        return spec, slot.host

    def _list_gated(self, rows: list[Row]) -> None:
        rows = [row for row in rows if self._rows.get(row.name) != row]
        if rows:
            self._edit(f"list {shown([r.name for r in rows])} as gated: only gate requests get there", rows)

    def _admit(self, copies: Iterable[tuple[str, str]], canary: CanaryWish | None = None) -> None:
        """Copies that load together take traffic one after the other, each through its gate; a canary its share."""
        for name, host in copies:
            wish = self._wish
            container = container_name(wish.project, name)
            awaited = AwaitReady(container, f"{self._rows[name].url}/ready", wish.ready_timeout_s, wish.model)
            self._add(host, f"wait until {name} is ready", awaited, "", name)
            for front in self._fronts[:1]:
                gate = Gate(name, wish.front.port, wish.front.is_tls, wish.model, wish.gate_timeout_s)
                self._add(front, f"send a completion to {name} through {front}", gate, "", name)
            if canary is None:
                self._edit(f"let {name} take traffic", [replace(self._rows[name], state="active")])
                continue
            for front in self._fronts[:1]:
                same = Compare(name, self._others(name), wish.front.port, wish.front.is_tls, wish.model)
                self._add(front, f"compare answers of {name} with the old release's", same, "", name)
            row = replace(self._rows[name], state="active", share=canary.share)
            self._edit(f"let {name} take {100 * canary.share:g} % of the requests", [row])

    def _others(self, name: str) -> tuple[str, ...]:
        """Copies of other releases that take traffic."""
        mine = self._rows[name].spec_hash
        return tuple(row.name for row in self._rows.values() if row.state == "active" and row.spec_hash != mine)

    def _prove(self, name: str, canary: CanaryWish) -> None:
        """The canary stands its time; then it is a copy like any other, unless a person shall say so."""
        front = self._wish.front
        if self._fronts:
            watched = Canary(
                self._fronts, name, self._others(name), canary.seconds, canary.wanted, canary.ttft_ratio, front.port,
                front.is_tls, self._wish.model,
            )  # fmt: skip
            title = f"see that {name} serves as well as the old release for {canary.seconds:g} s"
            self._add(self._fronts[0], title, watched, "", name)
        if not canary.holds:
            self._edit(f"let {name} take its full part", [replace(self._rows[name], share=0.0)])

    def _prove_again(self, found: _Sorted) -> bool:
        """A canary that an earlier run left standing; False when it goes on standing."""
        standing = [each for each in found.kept if self._rows[each.name].share]
        canary = self._wish.canary
        for each in standing:
            if canary is not None and found.outdated:
                self._prove(each.name, canary)
            else:
                self._edit(f"let {each.name} take its full part", [replace(self._rows[each.name], share=0.0)])
        self._has_canary = bool(standing)
        return not (standing and canary is not None and canary.holds and found.outdated)

    def _reopen(self, kept: Sequence[Found]) -> None:
        closed = [each for each in kept if self._rows[each.name].state != "active"]
        if closed:
            rows = [replace(self._rows[each.name], state="active") for each in closed]
            self._edit(f"let {shown([each.name for each in closed])} take traffic again", rows)
        for each in kept:
            if not each.is_ready:
                awaited = AwaitReady(each.container.name, f"{each.url}/ready", self._wish.ready_timeout_s)
                self._add(each.host, f"wait until {each.name} is ready again", awaited)

    def _replace_all(self, outdated: Sequence[Found], pool: Pool) -> bool:
        """The first alone, then `batch` at a time: beside the old ones where slots are free, else in their place.

        False when it ends early, with a canary that stands.
        """
        rest = list(outdated)
        size = 1
        canary = None if self._has_canary else self._wish.canary
        while rest:
            batch, rest = rest[:size], rest[size:]
            size = self._wish.batch
            surged: list[tuple[Found, tuple[ContainerSpec, str]]] = []
            narrow: list[Found] = []
            for old in batch:
                slots = () if self._wish.strategy == "drain-first" else pool.take(self._wish.nodes)
                if slots:
                    surged.append((old, self._launch(slots, self._why(old))))
                else:
                    narrow.append(old)
            self._surge(surged, pool, canary)
            for old in narrow:
                self._in_place(old, pool, canary)
            if canary is not None and canary.holds:
                return False
            canary = None
        return True

    def _surge(
        self, surged: Sequence[tuple[Found, tuple[ContainerSpec, str]]], pool: Pool, canary: CanaryWish | None
    ) -> None:  # fmt: skip
        self._list_gated([_row(launched) for _, launched in surged])
        self._admit([(_name(spec), host) for _, (spec, host) in surged], canary)
        for old, (spec, _) in surged:
            if canary is not None:
                self._prove(_name(spec), canary)
                if canary.holds:
                    return
            else:
                self._soak(_name(spec))
            self._retire(old, f"{_name(spec)} serves in its place")
            pool.give(Slot(old.host, old.gpus))

    def _in_place(self, old: Found, pool: Pool, canary: CanaryWish | None) -> None:
        why = self._why(old)
        self._retire(old, why)
        pool.give(Slot(old.host, old.gpus))
        slots = pool.take(self._wish.nodes) or (Slot(old.host, old.gpus),)
        launched = self._launch(slots, why, old.name)
        self._list_gated([_row(launched)])
        self._admit([(old.name, slots[0].host)], canary)
        if canary is not None:
            self._prove(old.name, canary)
        else:
            self._soak(old.name)

    def _why(self, old: Found) -> str:
        if old.host not in self._wish.hosts:
            return f"{old.name} is on {old.host}, which shall hold no copy"
        return f"{old.name} serves an older configuration"

    def _soak(self, name: str) -> None:
        if self._wish.soak_s and self._fronts:
            title = f"see that {name} goes on serving for {self._wish.soak_s:g} s"
            self._add(self._fronts[0], title, Soak(name, self._wish.soak_s))

    def _retire(self, old: Found, why: str) -> None:
        row = self._rows[old.name]
        self._edit(f"give {old.name} nothing new", [replace(row, state="draining")], why)
        drain = Drain(self._fronts, old.name, self._wish.drain_timeout_s)
        self._add(self._fronts[0] if self._fronts else old.host, f"let {old.name} finish what it has", drain)
        self._end(old)
        self._unlist([old.name], f"take {old.name} out of the table")

    def _discard(self, broken: Sequence[Found]) -> None:
        names = [each.name for each in broken if each.name in self._rows]
        if names:
            self._unlist(names, f"take {shown(names)} out of the table", "it does not serve")
        for each in broken:
            why = f"it is {each.container.state}" if not each.container.is_running else "it never took traffic"
            self._end(each, why)
            self._names.give(each.name)

    def _end(self, each: Found, why: str = "") -> None:
        ended = EndContainer(each.container.name, each.container.id, REPLICA_STOP_S)
        self._add(each.host, f"stop {each.name} on {each.host}", ended, why)

    def _tidy(self) -> None:
        """Rows of copies that exist nowhere, and front hosts whose table fell behind."""
        if not self._lost:
            fresh = {step.replica for step in self._steps if isinstance(step.action, RunContainer)}
            gone = [name for name in self._rows if name not in self._seen.copies and name not in fresh]
            if gone:
                self._unlist(gone, f"take {shown(gone)}, which exist nowhere, out of the table")
        is_edited = any(isinstance(step.action, EditTable) for step in self._steps)
        if not is_edited and self._rows:
            stale = [host for host in self._fronts if self._seen.tables.get(host) != self._seen.table]
            if stale:
                self._edit(f"bring the table of {shown(stale)} up to date", [])

    # small pieces

    def _row(self, each: Found) -> Row:
        return Row(each.name, each.url, each.spec_hash, "gated")

    def _edit(self, title: str, rows: list[Row], why: str = "") -> None:
        self._rows |= {row.name: row for row in rows}
        where = self._fronts[0] if self._fronts else ""
        self._add(where, title, EditTable(self._fronts, tuple(rows)), why)

    def _unlist(self, names: list[str], title: str, why: str = "") -> None:
        for name in names:
            self._rows.pop(name, None)
        where = self._fronts[0] if self._fronts else ""
        self._add(where, title, EditTable(self._fronts, (), tuple(names)), why)

    def _add(self, host: str, title: str, action: FleetAction, why: str = "", replica: str = "") -> None:
        self._steps.append(FleetStep(host, title, action, why, replica))


def _row(launched: tuple[ContainerSpec, str]) -> Row:
    spec = launched[0]
    return Row(_name(spec), f"http://{spec.label('address')}:{spec.label('port')}", spec.label("spec"), "gated")


def _name(spec: ContainerSpec) -> str:
    return spec.label("replica")


def shown(names: Sequence[str]) -> str:
    """Names in a sentence; many by their number."""
    if len(names) > 6:
        return f"{len(names)} copies"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
