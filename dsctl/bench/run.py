"""One run from the first look at the server to its rows and facts; the numbers are made elsewhere, from these alone."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dsctl import __version__
from dsctl.base.errors import StoppedError
from dsctl.bench import loads, records, selfcheck
from dsctl.bench.crew import Crew
from dsctl.bench.loads import ENDLESS
from dsctl.bench.plan import Plan
from dsctl.bench.preflight import Look
from dsctl.bench.progress import Snapshot, Watcher
from dsctl.bench.records import Record, RunFacts, Stage, Window
from dsctl.bench.scrape import Scraper, chosen
from dsctl.bench.selfcheck import Evidence
from dsctl.bench.wish import Wish, load_of, workload_of
from dsctl.bench.workload import Writer

if TYPE_CHECKING:
    from dsctl.bench.mock import Mock

ENOUGH = 0.6  # CPU of a worker in the warm-up above which there should be more of them
AIM = 0.4


@dataclass(frozen=True, slots=True)
class Site:
    """What is measured. `life` lists what changes when a server of it restarts."""

    url: str
    life: Callable[[], list[str]] | None = None
    mock: Mock | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that is over. `stop` is what interrupted it, if anything did."""

    facts: RunFacts
    rows: list[Record]
    stop: StoppedError | None = None


@dataclass(slots=True)
class _Attempt:
    """What came of one crew."""

    evidence: Evidence
    started_at: datetime
    start: float = 0.0  # the same moment on the monotonic clock
    wants_workers: int = 0  # more than there were: start again
    stop: StoppedError | None = None


def measure(wish: Wish, site: Site, folder: Path, watcher: Watcher) -> Ran:
    """Look, plan, load, collect, examine. Interrupted, it keeps what is there (`Ran.stop`). Raises DsctlError."""
    load, trace = load_of(wish)
    work = workload_of(wish, trace)
    with Look(wish, site.url) as look:
        watcher.say(f"looking at {look.url}")
        plan = Plan(target=look.target(), load=load, workload=work)
        life = site.life or look.life
        before = life()
        watcher.say(f"{plan.target.model}: {describe(plan)}; results go to {folder}")
        scraper = Scraper(look.metrics) if wish.scrape_metrics else None
        figures = {"before": chosen(look.metrics())}
        attempt = _attempts(plan, wish, site, folder, watcher, scraper)
        after = life() if attempt.stop is None else before
        figures["after"] = chosen(look.metrics()) if attempt.stop is None else {}
    restarts = max(len(set(after) - set(before)), len(set(before) - set(after)))
    evidence = replace(attempt.evidence, server_restarts=restarts)
    rows = gather(folder)
    records.write(folder / records.ROWS, rows)
    for used in folder.glob("rows-*.jsonl"):
        used.unlink()
    facts = _facts(plan, wish, attempt, evidence, rows, scraper)
    facts.env["server"]["metrics"] = figures
    return Ran(facts, rows, attempt.stop)


def _attempts(plan: Plan, wish: Wish, site: Site, folder: Path, watcher: Watcher, scraper: Scraper | None) -> _Attempt:
    useful = plan.load.most_workers
    workers = min(wish.workers or 1, useful)
    while True:
        most = workers if wish.workers else min(useful, len(os.sched_getaffinity(0)))
        if site.mock is not None:
            site.mock.reset()
        with scraper or nullcontext():
            attempt = _attempt(plan, folder, workers, most, watcher)
        if not attempt.wants_workers:
            break
        watcher.say(f"{workers} of the load's workers are not enough; starting again with {attempt.wants_workers}")
        workers = attempt.wants_workers
    if site.mock is not None and attempt.stop is None:
        late = site.mock.lateness().p99
        attempt.evidence = replace(attempt.evidence, mock_late_p99=late)
    return attempt


def _attempt(plan: Plan, folder: Path, workers: int, most: int, watcher: Watcher) -> _Attempt:
    """One crew to its end, to a signal, or to the finding that more workers are needed."""
    for old in folder.glob("rows-*.jsonl"):
        old.unlink()
    attempt = _Attempt(Evidence(()), datetime.now(UTC))
    with Crew(plan, folder, workers) as crew:
        try:
            _follow(crew, plan, workers, most, watcher, attempt)
        except StoppedError as stop:
            attempt.stop = stop
            watcher.say("stopping; what was measured is kept")
            crew.stop()
            for _ in crew.hear():
                pass
        attempt.evidence = Evidence(
            tuple(member.ended for member in crew.members if member.ended is not None),
            workers_lost=crew.lost,
            is_partial=attempt.stop is not None,
        )
    return attempt


def _follow(crew: Crew, plan: Plan, workers: int, most: int, watcher: Watcher, attempt: _Attempt) -> None:
    board = _Board(plan)
    is_running = False
    for _ in crew.hear():
        if not is_running and all(member.began for member in crew.members):
            is_running = True
            attempt.start = max(member.began.start for member in crew.members if member.began)
            attempt.started_at = datetime.now(UTC) - timedelta(seconds=perf_counter() - attempt.start)
        seen = board.update(crew)
        if seen is None:
            continue
        watcher.see(seen)
        busiest = max((member.beat.cpu for member in crew.members if member.beat), default=0.0)
        if workers < most and busiest > ENOUGH and 1.5 < seen.at < max(plan.load.warmup, 2.5):
            attempt.wants_workers = min(most, max(workers + 1, round(workers * busiest / AIM)))
            crew.stop()
            return


class _Board:
    """Adds up what the workers tell into what a watcher sees."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last: tuple[float, int, int] = (0.0, 0, 0)
        self._ttfts: list[float] = []
        self._tpots: list[float] = []

    def update(self, crew: Crew) -> Snapshot | None:
        """The run now; None until every worker has spoken or when nothing is new."""
        beats = [member.beat for member in crew.members if member.beat is not None]
        if len(beats) < len(crew.members):
            return None
        at = max(beat.at for beat in beats)
        then, ended_then, events_then = self._last
        if at <= then:
            return None
        ended, events = sum(beat.ended for beat in beats), sum(beat.events for beat in beats)
        self._last = (at, ended, events)
        ttfts = [value for beat in beats for value in beat.ttfts]
        tpots = [value for beat in beats for value in beat.tpots]
        if ttfts:
            self._ttfts.append(median(ttfts))
        if tpots:
            self._tpots.append(median(tpots))
        load = self._plan.load
        phase = "warm-up" if at < load.warmup else "measuring" if at < load.end else "draining"
        return Snapshot(
            at=at, total=load.end if load.end < ENDLESS else 0.0, phase=phase, target=load.target_at(at)[1],
            sent=sum(beat.sent for beat in beats), ended=ended, failed=sum(beat.failed for beat in beats),
            inflight=sum(beat.inflight for beat in beats), rate=(ended - ended_then) / (at - then),
            event_rate=(events - events_then) / (at - then), ttft=self._ttfts[-1] if self._ttfts else None,
            tpot=self._tpots[-1] if self._tpots else None, ttfts=self._ttfts[-60:], tpots=self._tpots[-60:],
        )  # fmt: skip


def gather(folder: Path) -> list[Record]:
    """All rows of all workers; a last row that was cut off by a worker's death is left out."""
    rows: list[Record] = []
    for file in sorted(folder.glob("rows-*.jsonl")):
        lines = file.read_bytes().split(b"\n")
        rows.extend(records.decode(line) for line in lines[:-1])  # after the last line end there is nothing, or a piece
    return sorted(rows, key=lambda row: row.id)


def _facts(
    plan: Plan, wish: Wish, attempt: _Attempt, evidence: Evidence, rows: list[Record], scraper: Scraper | None
) -> RunFacts:
    window = selfcheck.window_of(plan, rows, evidence)
    check, reasons = selfcheck.examine(plan, rows, evidence, window)
    return RunFacts(
        dsctl_version=__version__,
        started_at=attempt.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        is_partial=evidence.is_partial,
        mode="open" if plan.load.is_open else "closed",
        config=_config(plan, wish),
        request_set_sha256=Writer(plan).sha256(),
        schedule_sha256=loads.schedule_sha256(plan.load, plan.workload.seed, plan.trace),
        env=_environment(plan, evidence),
        window=window,
        stages=_stages(plan, window),
        self_check=check,
        valid=not reasons,
        reasons=reasons,
        notes=selfcheck.remarks(plan, rows),
        server_metrics=scraper.since(attempt.start) if scraper else [],
    )


def _stages(plan: Plan, window: Window) -> list[Stage]:
    """The stages as far as they lie in the window."""
    found: list[Stage] = []
    for index, (start, until, target) in enumerate(plan.load.spans()):
        stage = Stage(index, target, max(start, window.start), min(until, window.end))
        if stage.end > stage.start:
            found.append(stage)
    return found


def _config(plan: Plan, wish: Wish) -> dict[str, Any]:
    """Every option as it took effect; lengths and rows by what they are, not by what they hold."""
    load, work, target = plan.load, plan.workload, plan.target
    return {
        "url": target.url, "model": target.model, "endpoint": target.endpoint, "load": load.kind, "shape": load.shape,
        "stages": [{"target": level.target, "seconds": _finite(level.seconds)} for level in load.levels],
        "warmup": load.warmup, "drain": load.drain, "requests": load.requests, "isl": wish.isl, "osl": wish.osl,
        "shared_prefix": wish.shared_prefix, "turns": work.turns, "dataset": work.source, "rows": len(work.rows),
        "priority": wish.priority, "disconnect": work.leave_share, "seed": work.seed, "timeout": target.timeout,
        "ignore_eos": work.ignore_eos and target.takes_ignore_eos, "usage": target.takes_usage,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if value < ENDLESS else None


def _environment(plan: Plan, evidence: Evidence) -> dict[str, Any]:
    """Where the load was made, and what the server said it is."""
    target = plan.target
    return {
        "client": {
            "system": platform.platform(), "cpu": _processor(),
            "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)),
            "workers": len(evidence.ended), "locust": version("locust"), "gevent": version("gevent"),
        },
        "server": {
            "version": target.version, "late_p99": evidence.mock_late_p99, "sends_done": target.sends_done,
            "tokens_per_word": target.tokens_per_word,
            "tokens_around": target.tokens_around, "takes": {
                "usage": target.takes_usage, "ignore_eos": target.takes_ignore_eos, "priority": target.takes_priority,
            },
        },
    }  # fmt: skip


def _processor() -> str:
    """The processor's name as Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def describe(plan: Plan) -> str:
    """The load in a few words."""
    load = plan.load
    if len(load.levels) > 1:
        shown = f"{load.kind}, {len(load.levels)} stages"
    elif load.kind == "closed":
        shown = f"closed, {load.levels[0].target:.0f} users"
    else:
        shown = f"{load.kind}, {load.levels[0].target:g} requests/s"
    length = f"{load.requests} requests" if load.requests else f"{load.end - load.warmup:.0f} s"
    return f"{shown}, {length} after {load.warmup:g} s of warm-up"
