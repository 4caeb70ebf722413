"""Looks at every host of a group for the doctor: one script over SSH each, all at once, one case a host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.doctor import context
from dsctl.doctor.model import Case
from dsctl.facts import survey
from dsctl.facts.logscan import scan
from dsctl.flows.logreading import scanner

DAY_S = 86400.0
Ask = Callable[[str], str]  # the script's output on one host by name; DsctlError where it cannot be asked


@dataclass(slots=True)
class Fleet:
    """What the hosts said: a case for each that answered, why the others did not, versions and clocks side by side."""

    cases: dict[str, Case] = field(default_factory=lambda: dict[str, Case]())
    silent: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    versions: dict[str, dict[str, str]] = field(default_factory=lambda: dict[str, dict[str, str]]())
    skews: dict[str, float] = field(default_factory=lambda: dict[str, float]())


def look(names: list[str], ask: Ask) -> Fleet:
    """Asks all hosts in parallel; one that fails never hides another."""
    from dsctl.reach.ssh.ways import everywhere

    fleet = Fleet()

    def one(name: str) -> tuple[str, float, float]:
        began = time.time()
        return ask(name), began, time.time()

    for name, answer in zip(names, everywhere(names, one), strict=True):
        if isinstance(answer, DsctlError):
            fleet.silent[name] = answer.message + (f": {answer.why.splitlines()[0]}" if answer.why else "")
        else:
            text, began, ended = cast("tuple[str, float, float]", answer)
            _add(fleet, name, survey.read(text), (began, ended))
    return fleet


def _add(fleet: Fleet, name: str, found: survey.Survey, asked: tuple[float, float]) -> None:
    case = Case(missing=dict(found.missing), facts=dict(found.facts))
    if isinstance(case.facts.get("gpu"), str):
        none = str(case.facts["gpu"])
        case.facts |= dict.fromkeys(("shm", *CARD_NEEDS), none)
    for need in CARD_NEEDS:
        if need not in case.facts:
            case.missing.setdefault(need, "nvidia-smi on that host does not tell")
    if isinstance(found.log, Missing):
        case.missing["kernel log"] = found.log.reason
    else:
        read = scan(f"{name}:dmesg", [found.log.encode()], scanner())
        source = context.source(read)
        source.kinds, source.host = frozenset({"kernel log"}), name
        case.hits, case.sources = read.hits, {read.file: source}
    fleet.cases[name] = case
    fleet.versions[name] = found.versions
    if found.time is not None:
        fleet.skews[name] = found.time - min(max(found.time, asked[0]), asked[1])  # 0 when it lies between


CARD_NEEDS = tuple(
    f"gpu.{name}"
    for name in (
        "recovery", "ecc", "rows_pending", "rows_failed", "clocks", "temperature", "power_limit", "persistence",
        "pcie_width", "pcie_gen", "processes", "fabric", "nvlinks", "app_clock", "retired", "reserved",
    )
)  # fmt: skip


def together(fleet: Fleet) -> Mapping[str, object]:
    """The facts that only several hosts have; absent with fewer than two."""
    facts: dict[str, object] = {}
    if len(fleet.versions) > 1:
        facts["several hosts"] = dict(fleet.versions)
    if len(fleet.skews) > 1:
        facts["clocks of hosts"] = dict(fleet.skews)
    ports = {name: case.facts["links"] for name, case in fleet.cases.items() if "links" in case.facts}
    told = {name: found for name, found in ports.items() if not isinstance(found, str)}
    if len(ports) > 1:
        facts["links of hosts"] = told or "no host has a network port of its own"
    return facts
