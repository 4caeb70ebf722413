"""A fleet as it is, for one project: its copies by name, what the front hosts serve, its releases; from host facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dsctl.base.container import SCHEMA_VERSION
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, HostFacts, ProjectState
from dsctl.facts.serving import Front, Table, parse_table

Fleet = Mapping[str, HostFacts | Missing]  # by host name; Missing: it could not be asked
NO_FRONTS: dict[str, Front | Missing] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """One container of a copy, and where it is."""

    name: str  # r1
    host: str
    container: Container
    spec_hash: str
    address: str
    port: int
    gpus: tuple[str, ...]
    release: int

    @property
    def url(self) -> str:
        """Where gateways reach it."""
        return f"http://{self.address}:{self.port}"

    @property
    def is_ready(self) -> bool:
        """It runs and its health check agrees."""
        return self.container.is_running and self.container.health in ("healthy", "")


@dataclass(frozen=True, slots=True)
class Release:
    """One record of releases/<n>.json."""

    number: int
    outcome: str  # pending | good | bad
    spec_hash: str
    replicas: int
    image: str
    settings: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One project over all hosts that were asked."""

    project: str
    fleet: Fleet
    copies: Mapping[str, Found]
    table: Table | Missing  # of the highest generation on any front host
    tables: Mapping[str, Table | Missing]  # by front host
    fronts: Mapping[str, Front | Missing]  # what each gateway says, by host
    releases: tuple[Release, ...]  # oldest first
    loads: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict[str, tuple[float, ...]]())

    def facts(self, host: str) -> HostFacts:
        """A host that answered; KeyError otherwise, as nothing may be planned for one that did not."""
        found = self.fleet[host]
        if isinstance(found, Missing):
            raise KeyError(host)
        return found

    def part(self, host: str, role: str) -> Container | Missing:
        """The gateway or nginx container of a host."""
        facts = self.fleet.get(host, Missing(f"{host} was not asked"))
        if isinstance(facts, Missing):
            return facts
        found = (each for each in facts.ours(self.project) if each.label("role") == role)
        return next(found, Missing(f"{host} has no {role}"))

    def file(self, host: str, path: str) -> str | Missing:
        """A small file below the project's directory on a host."""
        facts = self.fleet.get(host, Missing(f"{host} was not asked"))
        if isinstance(facts, Missing):
            return facts
        if isinstance(facts.projects, Missing):
            return facts.projects
        state = facts.projects.get(self.project)
        return state.files.get(path, Missing(f"{host} has no {path}")) if state else Missing(f"{host} has no state")

    def last(self, outcome: str = "") -> Release | Missing:
        """The newest release, or the newest of that outcome."""
        found = [each for each in self.releases if outcome in ("", each.outcome)]
        return found[-1] if found else Missing("nothing was deployed")


def see(project: str, fleet: Fleet, fronts: Mapping[str, Front | Missing] = NO_FRONTS) -> Seen:
    """The project as the hosts tell it."""
    copies: dict[str, Found] = {}
    tables: dict[str, Table | Missing] = {}
    releases: dict[int, Release] = {}
    loads: dict[str, list[float]] = {}
    for host, facts in fleet.items():
        if isinstance(facts, Missing):
            continue
        found = [_found(host, each) for each in facts.ours(project) if each.label("role") == "replica"]
        copies |= {each.name: each for each in found}
        state = None if isinstance(facts.projects, Missing) else facts.projects.get(project)
        if state is not None:
            _read_state(host, state, tables, releases)
            for line in state.loads:
                _remember(line, loads)
    newest = max((t for t in tables.values() if isinstance(t, Table)), key=lambda t: t.generation, default=None)
    ordered = sorted(copies.values(), key=lambda each: number(each.name))
    return Seen(
        project, fleet, {each.name: each for each in ordered},
        newest if newest is not None else Missing("no replica table"), tables, fronts,
        tuple(releases[n] for n in sorted(releases)), {key: tuple(values) for key, values in loads.items()},
    )  # fmt: skip


def _read_state(
    host: str, state: ProjectState, tables: dict[str, Table | Missing], releases: dict[int, Release]
) -> None:  # fmt: skip
    """The table and the releases one host holds; a record that is decided wins over one that is pending."""
    if "gateway/replicas.json" in state.files:
        tables[host] = parse_table(state.files["gateway/replicas.json"])
    for path, text in state.files.items():
        release = parse_release(text) if path.startswith("releases/") else None
        if isinstance(release, Release):
            known = releases.get(release.number)
            if known is None or (known.outcome == "pending" and release.outcome != "pending"):
                releases[release.number] = release


def number(name: str) -> int:
    """7 of r7; -1 for what is no copy's name."""
    return int(name[1:]) if name[:1] == "r" and name[1:].isdigit() else -1


def newer_states(fleet: Fleet, project: str) -> list[str]:
    """The hosts whose containers or releases a newer dsctl wrote."""
    found: list[str] = []
    for host, facts in fleet.items():
        if isinstance(facts, Missing):
            continue
        versions = [int(each.label("schema") or 0) for each in facts.ours(project) if each.label("schema").isdigit()]
        state = None if isinstance(facts.projects, Missing) else facts.projects.get(project)
        for path, text in state.files.items() if state else ():
            if path.startswith("releases/"):
                versions.append(_version(text))
        if any(version > SCHEMA_VERSION for version in versions):
            found.append(host)
    return found


def show_release(release: Release) -> str:
    """The record as text; the same text for the same release."""
    told = {
        "schema_version": SCHEMA_VERSION, "number": release.number, "outcome": release.outcome,
        "spec": release.spec_hash, "replicas": release.replicas, "image": release.image,
        "settings": dict(release.settings),
    }  # fmt: skip
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def parse_release(text: str) -> Release | Missing:
    """Reads a record."""
    try:
        told = cast("dict[str, Any]", json.loads(text))
        return Release(
            int(told["number"]), str(told["outcome"]), str(told["spec"]), int(told["replicas"]),
            str(told["image"]), dict(told["settings"]), text,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"a release cannot be read: {error!r}")


def _version(text: str) -> int:
    try:
        return int(cast("dict[str, Any]", json.loads(text)).get("schema_version", 0))
    except (ValueError, TypeError, AttributeError):
        return 0


def _found(host: str, container: Container) -> Found:
    label = container.label
    gpus = tuple(each for each in label("gpus").split(",") if each)
    port = int(label("port")) if label("port").isdigit() else 0
    release = int(label("release")) if label("release").isdigit() else 0
    return Found(label("replica"), host, container, label("spec"), label("address"), port, gpus, release)


def _remember(line: str, loads: dict[str, list[float]]) -> None:
    """One line of loads.jsonl: {"what": "load", "model": …, "s": …}."""
    try:
        told = cast("dict[str, Any]", json.loads(line))
        loads.setdefault(f"{told['what']} {told.get('model', '')}".strip(), []).append(float(told["s"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # a torn last line of a host that lost power; the next load is remembered
