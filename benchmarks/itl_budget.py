"""Prints gaps between tokens of running streams while long prompts arrive, with and without --target-itl-ms.

The 904 M model in int8 behind its own HTTP server; every stream and every prompt has random tokens of its own. Gaps are
what a client sees. The speed of prefill is a prompt's tokens over the time from sending it to its first token; prompts
come one after the other, each of one token's answer, so the streams are never fewer nor more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.engine_peers.client import ask, random_prompt
from benchmarks.engine_peers.engines import ROOT
from benchmarks.engine_peers.install import Peers, default_folder
from benchmarks.engine_peers.probing import build, machine, measure
from benchmarks.engine_peers.results import percentile
from benchmarks.engine_peers.servers import Server, started

REFERENCE_READ = 81e9  # bytes/s of the machine the goal of 50 ms was set on
SETTLE_S = 1.5  # streams alone before the first prompt that counts and after the last


@dataclass(frozen=True, slots=True)
class Load:
    """What every run gets."""

    streams: int
    prompts: int
    length: int  # tokens of a prompt
    practice: int  # prompts before those that count: the target's costs are learned from them


@dataclass(frozen=True, slots=True)
class Seen:
    """One run; milliseconds."""

    target: float
    alone_p50: float  # gaps while no prompt is computed
    beside_p50: float  # gaps that overlap the computation of a prompt
    beside_p99: float
    beside_most: float
    gaps: int
    prefill: float  # prompt tokens a second
    error: float | None = None  # what steps took over what they were expected to take, minus 1


@dataclass(slots=True)
class Clients:
    """Streams that go on until told to stop, and prompts beside them."""

    url: str
    session: aiohttp.ClientSession
    seed: int = 0
    arrivals: list[list[float]] = field(default_factory=list[list[float]])

    def prompt(self, length: int) -> list[int]:
        """Other tokens every time."""
        self.seed += 1
        return random_prompt(self.seed, length)

    async def stream(self) -> None:
        """One stream without an end."""
        body = {"model": "bf16", "prompt": self.prompt(128), "max_tokens": 3800, "temperature": 0, "ignore_eos": True}
        times: list[float] = []
        self.arrivals.append(times)
        async with self.session.post(f"{self.url}/v1/completions", json={**body, "stream": True}) as response:
            response.raise_for_status()
            async for line in response.content:
                _note(line, times)
        raise SystemExit("a stream ended before the prompts did; use fewer or shorter prompts")

    async def prefill(self, length: int) -> tuple[float, float]:
        """Begin and first token of one long prompt."""
        answer = await ask(self.session, self.url, "bf16", self.prompt(length), 1)
        if answer.error:
            raise SystemExit(f"a prompt failed: {answer.error}")
        return answer.began, answer.arrivals[0]


def _note(line: bytes, times: list[float]) -> None:
    """An event of a stream is a token."""
    if line.startswith(b"data:"):
        times.append(time.perf_counter())


async def run(url: str, load: Load, target: float) -> Seen:
    """Streams, practice, then the prompts that count."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(url, session)
        streams = [asyncio.create_task(clients.stream()) for _ in range(load.streams)]
        await asyncio.sleep(2 * SETTLE_S)
        for _ in range(load.practice):
            await clients.prefill(load.length)
        quiet = time.perf_counter()
        await asyncio.sleep(SETTLE_S)
        before = _sums(url)
        spans = [await clients.prefill(load.length) for _ in range(load.prompts)]
        after = _sums(url)
        for task in streams:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    gaps = [(a, b) for times in clients.arrivals for a, b in itertools.pairwise(times)]
    alone = [1e3 * (b - a) for a, b in gaps if a >= quiet and b <= spans[0][0]]
    beside = [1e3 * (b - a) for a, b in gaps if any(a < last and b > first for first, last in spans)]
    took, expected = (new - old for new, old in zip(after, before, strict=True))
    return Seen(
        target=target,
        alone_p50=percentile(alone, 0.5),
        beside_p50=percentile(beside, 0.5),
        beside_p99=percentile(beside, 0.99),
        beside_most=max(beside),
        gaps=len(beside),
        prefill=load.prompts * load.length / sum(last - first for first, last in spans),
        error=took / expected - 1 if expected else None,
    )


def _sums(url: str) -> tuple[float, float]:
    """Seconds that all steps so far took, and were expected to take."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    names = ("dsctl_step_seconds_sum", "dsctl_step_expected_seconds_sum")
    found = [sum(float(line.split()[-1]) for line in lines if line.startswith(name)) for name in names]
    return found[0], found[1]


def serve_and_run(model: Path, load: Load, target: float, options: Sequence[str]) -> Seen:
    """One server, one run."""
    command = [sys.executable, "-m", "engine.server", "--model", str(model), "--served-model-name", "bf16"]
    command += ["--quantization", "int8", "--kv-cache-tokens", "49152", "--spare-cores", "0", "--max-model-len", "4096"]
    command += [*options, *(["--target-itl-ms", f"{target:.1f}"] if target else [])]
    server = Server(command, "bf16", {"PYTHONPATH": ROOT}, ready="/ready")
    with tempfile.TemporaryDirectory() as folder, started(server, Path(folder) / "log") as (url, _):
        return asyncio.run(run(url, load, target))


def show(free: Seen, seen: Sequence[Seen]) -> list[str]:
    """Markdown: a line for each run."""
    lines = [
        "| target ms | alone p50 ms | beside p50 / p99 / most ms | p99 / target | prefill tok/s | of unlimited | off |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for one in (free, *seen):
        error = "" if one.error is None else f"{one.error:+.1%}"
        cells = [f"{one.target:.0f}" if one.target else "none", f"{one.alone_p50:.1f}"]
        cells += [f"{one.beside_p50:.1f} / {one.beside_p99:.1f} / {one.beside_most:.1f}"]
        cells += [f"{one.beside_p99 / one.target:.2f}" if one.target else "", f"{one.prefill:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{one.prefill / free.prefill:.0%}", error]) + " |")
    return lines


def main() -> None:
    """Without a target, then with each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.itl_budget", description=__doc__)
    parser.add_argument("--targets", type=float, nargs="*", default=[], metavar="MS", help="default: 50, and 50 scaled")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--practice", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--venvs", type=Path, default=default_folder(), metavar="DIR", help="where the model lies")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="more options for the server, after --")
    args = parser.parse_args()
    peers = Peers(args.venvs.resolve())
    peers.install([])
    program, load = build(peers.folder), Load(args.streams, args.prompts, args.length, args.practice)
    print(" ".join(f"{name}={value}" for name, value in machine().items() if name != "features"))
    read = measure(program).read
    print(f"reads {read / 1e9:.1f} GB/s before; {load}", flush=True)
    targets = args.targets or [50.0, 50.0 * max(1.0, REFERENCE_READ / read)]
    free = serve_and_run(peers.checkpoint, load, 0.0, args.options)
    seen = [serve_and_run(peers.checkpoint, load, target, args.options) for target in targets]
    print("\n".join(show(free, seen)))
    print(f"reads {measure(program).read / 1e9:.1f} GB/s after")
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in (free, *seen)], indent=1))


if __name__ == "__main__":
    main()
