"""`dsctl doctor --deep --hosts`: how fast the disks of the hosts are, and the network from each to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.voice import Voice
from dsctl.config.settings import load
from dsctl.doctor.model import Case
from dsctl.flows.hostcheck import Fleet

ALONE = "one host has nobody to talk to"
PLACE = "/var/tmp"  # noqa: S108 - a disk of the host, not a name that must be secret
Rate = float | str | Missing  # bytes a second; what a host said instead; why it was not measured


@dataclass(slots=True)
class Report:
    """What was measured, in words, and what gave no answer."""

    told: list[str] = field(default_factory=lambda: list[str]())
    mute: list[tuple[str, str]] = field(default_factory=lambda: list[tuple[str, str]]())


def run(case: Case, fleet: Fleet, pattern: str, voice: Voice) -> Report:
    """Adds what was measured to the hosts' cases and to the common one."""
    from dsctl.flows import hosts
    from dsctl.reach.ssh import hostprobes

    settings = load(None)
    entries = [entry for entry in hosts.chosen(settings, pattern) if entry.name in fleet.cases]
    report = Report()
    rows: list[tuple[str, str, Rate]] = []
    with hosts.ways(settings) as opened:
        for entry in entries:
            voice.say(f"testing the disk of {entry.name} (about 1 s)")
            rate = _tried(lambda e=entry: hostprobes.disk(opened.host(e), PLACE))
            _keep_disk(fleet.cases[entry.name], entry.name, rate, report)
        for giver, taker in pairwise([*entries, entries[0]] if len(entries) > 1 else []):
            voice.say(f"testing the network {giver.name} → {taker.name} (about 3 s)")
            found = _tried(lambda g=giver, t=taker: hostprobes.network(opened.host(g), opened.host(t), g.fabric))
            rows.append((giver.name, taker.name, found))
    _keep_network(case, rows, report)
    return report


def _keep_disk(case: Case, name: str, rate: Rate, report: Report) -> None:
    if isinstance(rate, float):
        case.missing.pop("deep.disk", None)
        case.facts["deep.disk"] = [rate, PLACE]
        report.told.append(f"disk of {name}: {rate / 1e6:.0f} MB/s to {PLACE}")
    else:
        reason = rate.reason if isinstance(rate, Missing) else str(rate)
        case.missing["deep.disk"] = reason
        report.mute.append((f"disk of {name}", reason))


def _keep_network(case: Case, rows: list[tuple[str, str, Rate]], report: Report) -> None:
    """Judged are the pairs that were measured; while one was not, the rule is not clear."""
    case.missing.pop("deep.network", None)
    measured: list[tuple[str, str, float, str]] = []
    for giver, taker, rate in rows:
        if isinstance(rate, Missing):
            case.missing["deep.network"] = rate.reason
            report.mute.append((f"network {giver} → {taker}", rate.reason))
        else:
            why = rate if isinstance(rate, str) else ""
            measured.append((giver, taker, 0.0 if isinstance(rate, str) else rate, why))
            report.told.append(f"network {giver} → {taker}: " + (why or f"{measured[-1][2] / 1e6:.0f} MB/s"))
    if measured or not rows:
        case.facts["deep.network"] = measured or ALONE


def _tried(measure: Callable[[], Rate]) -> Rate:
    """The measurement; Missing with the reason where the connection to a host broke."""
    try:
        return measure()
    except DsctlError as problem:
        return Missing(problem.message)
