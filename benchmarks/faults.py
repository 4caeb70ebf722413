"""Kill and stop replicas at random under load, and check every answer.

    python -m benchmarks.faults --seed 1 --streams 3000 --rate 25
    python -m benchmarks.faults --engine models/dsctl-tiny --streams 300 --rate 5
    python -m benchmarks.faults --false-failovers --minutes 10

Prints the number of streams, failures and altered answers, the longest gap per kind of fault, and the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.load import Plan, Result, open_loop, oracle_plan
from benchmarks.real import real_plans
from benchmarks.rig import Rig, until
from dsctl.oracle.ledger import Expected, check

CONT_AFTER_S = 6.0
RESTART_AFTER_S = 0.2
SETTLE_S = 2.0  # engines get this long to free what clients left


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault: what, whom, when (monotonic)."""

    kind: str
    replica: str
    at: float


@dataclass(frozen=True, slots=True)
class Scheme:
    """How often which faults come. Pauses are in seconds between the end of one fault and the next."""

    kinds: tuple[str, ...] = ("kill api", "stop api")
    pause_s: tuple[float, float] = (1.0, 3.0)
    cont_after_s: float = CONT_AFTER_S


@dataclass(slots=True)
class Saboteur:
    """Injects faults, one at a time and only while every other replica is healthy; restarts what died."""

    rig: Rig
    scheme: Scheme
    rng: random.Random
    faults: list[Fault] = field(default_factory=lambda: list[Fault]())
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until told to stop; leaves every replica running."""
        keeper = threading.Thread(target=self._restart_dead, daemon=True)
        keeper.start()
        while not self.stopping.wait(self.rng.uniform(*self.scheme.pause_s)):
            if set(self.rig.health().values()) == {"healthy"}:
                self._one()
        keeper.join()

    def _one(self) -> None:
        kind = self.rng.choice(self.scheme.kinds)
        name = self.rng.choice(sorted(self.rig.replicas))
        verb, target = kind.split()
        pid = self.rig.replicas[name].pid if target == "api" else _core_pid(self.rig, name)
        if not pid:
            return
        self.faults.append(Fault(kind, name, time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
        if verb == "stop":
            self.stopping.wait(self.scheme.cont_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _restart_dead(self) -> None:
        while not self.stopping.wait(0.05):
            for program in self.rig.replicas.values():
                if not program.is_running:
                    time.sleep(RESTART_AFTER_S)
                    program.end()
                    program.start()


def _core_pid(rig: Rig, name: str) -> int:
    try:
        pids = rig.info(name).get("core_pids") or [0]
    except (httpx.HTTPError, ValueError):
        return 0
    return int(pids[0])


@dataclass(slots=True)
class Report:
    """What a fault run found."""

    streams: int
    seed: int
    faults: list[Fault]
    findings: list[str]
    gaps: dict[str, float]
    failovers: float
    continuations: float
    engine: str = "oracle"

    def lines(self) -> list[str]:
        """For people."""
        kinds = sorted({fault.kind for fault in self.faults})
        counts = ", ".join(f"{kind} × {sum(f.kind == kind for f in self.faults)}" for kind in kinds)
        gaps = ", ".join(f"{kind} {gap:.3f} s" for kind, gap in sorted(self.gaps.items()))
        return [
            f"engine {self.engine}, {self.streams} streams, seed {self.seed}, faults: {counts or 'none'}",
            f"failed or altered: {len(self.findings)}; continuations {self.continuations:.0f}; "
            f"replicas judged dead {self.failovers:.0f} times",
            f"longest gap by fault: {gaps or 'none above 0.1 s'}",
            *self.findings[:20],
        ]


def longest_gaps(result: Result, faults: list[Fault], normal_s: float) -> dict[str, float]:
    """The longest gap of any stream by the fault that came last before it ended; gaps below `normal_s` do not count."""
    gaps: dict[str, float] = {}
    for seen in result.seen:
        for end, length in seen.gaps:
            before = [fault for fault in faults if fault.at < end and end - length - fault.at < CONT_AFTER_S + 2]
            kind = before[-1].kind if before else "no fault"
            if length > normal_s:
                gaps[kind] = max(gaps.get(kind, 0.0), length)
    return gaps


def run_faults(
    folder: Path, plans: list[tuple[Plan, Expected]], rate: float, seed: int, scheme: Scheme, rig: Rig | None = None
) -> Report:
    """One fault run before two oracles, or before the replicas of `rig`; every answer and all three ledgers checked."""
    started = rig or Rig(folder)
    with started:
        before = started.metrics()
        saboteur = Saboteur(started, scheme, random.Random(seed))
        thread = threading.Thread(target=saboteur.run, daemon=True)
        thread.start()
        result = asyncio.run(open_loop(started.url, [plan for plan, _ in plans], rate))
        saboteur.stopping.set()
        thread.join()
        for program in started.replicas.values():
            program.signal(signal.SIGCONT)
            if not program.is_running:
                program.end()
                program.start()
        findings = _settled_findings(started, result, {plan.request_id: want for plan, want in plans})
        after = started.metrics()
        gaps = longest_gaps(result, saboteur.faults, 0.1)
    failovers = sum(value for name, value in after.items() if name.startswith("dsctl_failovers_total"))
    moved = [name for name in after if name.startswith("dsctl_continuations_total")]
    continuations = sum(after[name] - before.get(name, 0.0) for name in moved)
    return Report(len(plans), seed, saboteur.faults, findings, gaps, failovers, continuations)


def _settled_findings(rig: Rig, result: Result, expected: dict[str, Expected]) -> list[str]:
    """Check the ledgers once the engines had time to free what was left."""
    rig.wait_healthy()

    def findings() -> list[str]:
        living = {program.pid for program in rig.replicas.values() if program.is_running}
        return check(
            result.records,
            expected,
            rig.folder / "gateway.jsonl",
            rig.folder / "engine.jsonl",
            living,
            is_real=rig.is_real,
        )

    with contextlib.suppress(TimeoutError):
        until("the ledgers agree", lambda: not findings(), SETTLE_S * 5)
    return findings()


class LoadWatch:
    """The machine's load while something runs: runnable processes per processor."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            time.sleep(5.0)
            runnable = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
            self._samples.append(runnable / len(os.sched_getaffinity(0)))

    def text(self) -> str:
        """Mean and highest."""
        if not self._samples:
            return "load not sampled"
        mean = sum(self._samples) / len(self._samples)
        return f"runnable processes per processor: mean {mean:.1f}, highest {max(self._samples):.1f}"


def _hog(stop: float) -> None:
    while time.monotonic() < stop:
        pass


def count_false_failovers(folder: Path, minutes: float, rate: float, hogs: int) -> tuple[int, int, list[str]]:
    """Load without faults while `hogs` busy processes compete for the processors.

    Returns how often a replica was judged dead, how many streams ran, and the failed or altered ones.
    """
    rng = random.Random(hogs)
    plans = [oracle_plan(rng, number) for number in range(int(minutes * 60 * rate))]
    busy = [
        multiprocessing.Process(target=_hog, args=(time.monotonic() + minutes * 60 + 10,), daemon=True)
        for _ in range(hogs)
    ]
    with Rig(folder) as rig:
        for hog in busy:
            hog.start()
        result = asyncio.run(open_loop(rig.url, [plan for plan, _ in plans], rate))
        for hog in busy:
            hog.kill()
            hog.join()
        findings = _settled_findings(rig, result, {plan.request_id: want for plan, want in plans})
        deaths = sum(int(v) for name, v in rig.metrics().items() if name.startswith("dsctl_failovers_total"))
    return deaths, len(plans), findings


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--streams", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=25.0, help="requests per second")
    parser.add_argument("--engine", type=Path, help="a model directory: real replicas instead of oracles")
    parser.add_argument("--engine-option", action="append", default=[], help="passed on to engine.server")
    parser.add_argument("--false-failovers", action="store_true")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--hogs", type=int, default=2 * cores, help="busy processes beside --false-failovers")
    parser.add_argument("--minutes", type=float, default=10.0)
    return parser.parse_args()


def main() -> int:
    """Exit 1 when an answer failed or was altered."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.false_failovers:
            watch = LoadWatch()
            deaths, streams, findings = count_false_failovers(folder, options.minutes, options.rate, options.hogs)
            print(f"{options.minutes:g} min, {options.hogs} busy processes of our own, {watch.text()}")
            print(f"{streams} streams, {deaths} false fail-overs")
            print(f"failed or altered: {len(findings)}", *findings[:20], sep="\n")
            return 1 if findings or deaths else 0
        rng = random.Random(options.seed)
        if options.engine:
            rig = Rig(
                folder,
                replica_module="engine.server",
                replica_options=["--model", str(options.engine), *options.engine_option],
            )
            plans = real_plans(rig, rng, options.streams)
            scheme = Scheme(kinds=("kill api", "stop api", "kill core", "stop core"), pause_s=(2.0, 5.0))
        else:
            rig = None
            plans = [oracle_plan(rng, number) for number in range(options.streams)]
            scheme = Scheme()
        report = run_faults(folder, plans, options.rate, options.seed, scheme, rig)
        report.engine = str(options.engine or "oracle")
        print(*report.lines(), sep="\n")
        return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
