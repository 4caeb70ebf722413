"""bench search: measure level after level until the load that a service carries is known; every run is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dsctl.base.errors import InvalidError, UsageError
from dsctl.flows import bench
from dsctl.flows.foreground import need

if TYPE_CHECKING:
    from dsctl.bench.progress import Watcher
    from dsctl.bench.run import Site
    from dsctl.bench.search import Bracket, Probe
    from dsctl.bench.slo import Objectives
    from dsctl.bench.wish import Wish
    from dsctl.flows.project import Project

Over = Literal["concurrency", "rate"]
RESULT = "search.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Quest:
    """What is varied, between which levels, and how narrow the bracket is to be."""

    over: str
    low: float
    high: float
    precision: float = 0.05
    mock: bool = False  # on the stand-in server

    def check(self) -> None:
        """UsageError for what cannot be varied."""
        if self.over not in ("concurrency", "rate"):
            raise UsageError(f"--over cannot be {self.over!r}", hint="--over concurrency, or rate")
        if not 0 < self.precision < 1:
            raise UsageError(f"--precision is a share between 0 and 1, not {self.precision:g}", hint="--precision 0.05")


@dataclass(frozen=True, slots=True)
class Found:
    """The bracket, and where its runs lie."""

    bracket: Bracket
    quest: Quest
    folder: Path

    def as_json(self) -> dict[str, Any]:
        """As search.json holds it."""
        unit = "users" if self.quest.over == "concurrency" else "requests/s"
        return {"over": self.quest.over, "unit": unit, "folder": str(self.folder), **self.bracket.as_json()}


@dataclass(frozen=True, slots=True)
class Bench:
    """How one level is measured."""

    wish: Wish
    site: Site
    folder: Path
    objectives: Objectives
    watcher: Watcher


def search(project: Project, wish: Wish, goal: bench.Goal, quest: Quest, out: Path | None, watcher: Watcher) -> Found:
    """The bracket of a service. InvalidError when a level cannot be measured: a client too weak, a server that died."""
    need("bench", "bench search")
    from dsctl.bench import search as searching
    from dsctl.bench import slo

    quest.check()
    objectives = slo.wished(goal.limits, goal.preset, goal.attainment)
    if objectives is None or not objectives.requests:
        raise UsageError("search needs limits on requests", hint="--slo ttft=500ms,tpot=50ms")
    span = searching.Range(quest.low, quest.high, quest.over == "concurrency", quest.precision)
    span.check()
    with bench.site(project, wish, mock=quest.mock) as site:
        folder = bench.folder_of(out)
        measure = _measure(Bench(bench.with_key(wish), site, folder, objectives, watcher), quest)
        found = Found(searching.search(span, objectives, measure, watcher.say), quest, folder)
    told = {"schema_version": SCHEMA_VERSION, "objectives": objectives.as_json(), **found.as_json()}
    (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    return found


def _measure(how: Bench, quest: Quest) -> Callable[[float, int], Probe]:
    """Measures a level by a run of its own. Another try has another seed: it asks other things at other times."""
    from dsctl.bench import judge, records, run
    from dsctl.bench.search import Probe

    def measure(level: float, number: int) -> Probe:
        ran, folder = once(level, number, "")
        if not ran.facts.valid:
            how.watcher.say(f"{level:g} is not valid ({'; '.join(ran.facts.reasons)}); once more")
            ran, folder = once(level, number, "-again")
        if not ran.facts.valid:
            reasons = "\n".join(ran.facts.reasons)
            raise InvalidError(f"{level:g} could not be measured, twice ({folder})", why=reasons)
        return Probe(ran.rows, ran.facts.window, ran.facts.mode)

    def once(level: float, number: int, suffix: str) -> tuple[run.Ran, Path]:
        is_users = quest.over == "concurrency"
        own = replace(how.wish, concurrency=int(level)) if is_users else replace(how.wish, rate=level)
        own = replace(own, seed=how.wish.seed + number)
        folder = how.folder / f"level-{level:g}-{number + 1}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        ran = run.measure(own, how.site, folder, how.watcher)
        records.write_run(folder, judge.document(ran.facts, ran.rows, how.objectives))
        if ran.stop is not None:
            raise ran.stop
        return ran, folder

    return measure
