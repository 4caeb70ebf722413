"""Keeps only what was said in the last hours of a log (`--since`)."""

from __future__ import annotations

import re

from dsctl.doctor.model import Case
from dsctl.facts.logtext import stamp

YEAR_S = 12 * 31 * 86400.0  # stamps count months of 31 days
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def span(text: str) -> float | None:
    """Seconds of `90s`, `15m`, `1h`, `2d`; None for anything else."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def newest(case: Case) -> float | None:
    """The latest time in any log; None when no line has one. A log that goes over New Year counts as one."""
    stamps = [hit.said.stamp for hit in case.hits if hit.said.stamp is not None]
    for source in case.sources.values():
        ends = (stamp(line[:400]) for line in reversed(source.tail.splitlines()[-50:]))
        stamps += [end for end in ends if end is not None][:1]
    if not stamps:
        return None
    late = [s for s in stamps if s > max(stamps) - YEAR_S / 2]
    early = [s for s in stamps if s <= max(stamps) - YEAR_S / 2]
    return max(early) if early and min(late) > YEAR_S * 0.9 else max(stamps)


def keep(case: Case, since_s: float) -> int:
    """Drops the lines that are older than `since_s` before the newest; how many. Lines without a time stay."""
    last = newest(case)
    if last is None:
        return 0
    before = len(case.hits)
    case.hits = [hit for hit in case.hits if hit.said.stamp is None or (last - hit.said.stamp) % YEAR_S <= since_s]
    return before - len(case.hits)
