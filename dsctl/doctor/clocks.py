"""Puts hosts whose clocks stand whole hours apart (another time zone, no time service) on one clock before stories are told."""

from __future__ import annotations

from collections.abc import Iterable

from dsctl.doctor.model import Case, Finding, LogSource
from dsctl.facts.logtext import read

HOUR = 3600.0
MOST_HOURS = 14  # time zones are at most this far apart
SAMPLE = 200  # lines at both ends of a file that are looked at for times


def span(source: LogSource) -> tuple[float, float] | None:
    """First and last time that a file names at its two ends; None where it names none."""
    lines = source.tail.splitlines()
    stamps = [s for line in (*lines[:SAMPLE], *lines[-SAMPLE:]) if (s := read(line[:4000]).stamp) is not None]
    return (min(stamps), max(stamps)) if stamps else None


def offsets(case: Case) -> dict[str, float]:
    """host → seconds that its clock is ahead of the others', for hosts whose logs overlap with no other's as they stand.

    Only whole hours count, and only where taking them off makes the times overlap: logs of the same incident do.
    """
    spans: dict[str, tuple[float, float]] = {}
    for source in case.sources.values():
        if source.host and (known := span(source)) is not None:
            have = spans.get(source.host, known)
            spans[source.host] = (min(have[0], known[0]), max(have[1], known[1]))
    if len(spans) < 2:
        return {}
    base = max(spans, key=lambda host: (_neighbours(spans, host), spans[host][1] - spans[host][0], host))
    found: dict[str, float] = {}
    for host, own in spans.items():
        if host != base and not _overlap(own, spans[base]) and _neighbours(spans, host) == 0:
            hours = (h for k in range(1, MOST_HOURS + 1) for h in (k, -k))
            shift = next((h for h in hours if _overlap((own[0] - h * HOUR, own[1] - h * HOUR), spans[base])), None)
            if shift is not None:
                found[host] = shift * HOUR
    return found


def _neighbours(spans: dict[str, tuple[float, float]], host: str) -> int:
    return sum(other != host and _overlap(spans[host], own) for other, own in spans.items())


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def align(case: Case, findings: Iterable[Finding]) -> dict[str, float]:
    """Moves the findings of such hosts to the others' clock, and returns what was taken off."""
    ahead = offsets(case)
    for finding in findings:
        shift = ahead.get(finding.host)
        if shift and finding.first is not None and finding.last is not None:
            finding.first, finding.last = finding.first - shift, finding.last - shift
    return ahead


def note(told: Iterable[Finding], ahead: dict[str, float]) -> None:
    """Says in every story with effects on other hosts which clock was taken to be wrong by how much."""
    for root in told:
        hosts = {root.host, *(child.host for child in root.children)}
        for host in sorted(hosts & set(ahead)):
            if len(hosts - {""}) > 1:
                hours = ahead[host] / HOUR
                way = "ahead of" if hours > 0 else "behind"
                root.cause += f" (By these logs the clock of {host} is {abs(hours):g} h {way} the others: another time zone, or no time service.)"
