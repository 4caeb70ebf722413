"""Prints what the engine's own steps reach on the 904 M model: schedule, run, commit, tell; per operation if asked.

Every sequence has its own random prompt, so that a batch visits as many experts as real traffic does. The time is that
of the core loop, sampling included, without HTTP. Speeds are printed beside a read probe of the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import msgspec
import torch

from benchmarks.kernels import WORKING_SET
from benchmarks.model904 import checkpoint
from engine.caching.pool import BlockPool
from engine.core import machine
from engine.core.inbox import Inbox
from engine.core.loop import Loop
from engine.kernels.cpu.library import Library, Spent
from engine.modeling import loader
from engine.modeling.fused import FusedModel
from engine.running.runner import Runner
from engine.scheduling.admission import Limits
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.spec.policy import NAMED
from engine.wire.messages import Sampling, Submit

LENGTH = 2048  # positions a sequence may have


@dataclass(slots=True)
class Rig:
    """A core without its sockets: the loop, and what it said."""

    loop: Loop
    said: list[msgspec.Struct]
    vocab: int
    numbers: int = 0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))

    def submit(self, prompt: int, output: int, temperature: float) -> None:
        """One sequence with random tokens."""
        self.numbers += 1
        ids = torch.randint(2, self.vocab, (prompt,), generator=self.generator).tolist()
        sampling = Sampling(seed=self.numbers, max_tokens=output, temperature=temperature)
        self.loop.scheduler.add(Submit(self.numbers, ids, sampling))

    def drain(self) -> list[float]:
        """Step until nothing is left; seconds of each step."""
        took: list[float] = []
        while not self.loop.scheduler.is_idle:
            start = time.perf_counter()
            self.loop.step()
            took.append(time.perf_counter() - start)
        self.said.clear()
        return took


def rig(model: FusedModel, config: EngineConfig) -> Rig:
    """The loop as a core process has it."""
    blocks = -(-32 * 1024 // config.block_size)
    scheduler = Scheduler(config, Limits(model.spec.vocab_size, LENGTH, 32 * 1024), BlockPool(blocks))
    cache = model.new_cache(blocks, config.block_size)
    runner = Runner(model, cache, config.block_size, model.library.contenders)
    said: list[msgspec.Struct] = []
    return Rig(Loop(scheduler, runner, cast("Inbox", None), said.append), said, model.spec.vocab_size)


def probe(library: Library, threads: int) -> float:
    """Bytes per second that plain wide loads get."""
    memory = torch.ones(WORKING_SET // 4)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        library.stream(memory, threads)
        best = max(best, WORKING_SET / (time.perf_counter() - start))
    return best


def table(title: str, spent: Sequence[Spent], steps: int, wall: float, rate: float) -> None:
    """A line per operation: of one step, µs, MB, GB/s and share of the probe; last what no operation accounts for."""
    print(f"  {title}: {wall / steps * 1e3:.2f} ms per step")
    for one in sorted(spent, key=lambda one: -one.ns):
        if one.calls:
            speed = one.bytes / one.ns
            moved = f"{one.bytes / steps / 1e6:8.1f} MB {speed:6.1f} GB/s {speed * 1e9 / rate:5.0%} of probe"
            floor = one.bytes / steps / rate * 1e6
            print(f"    {one.name:12s} {one.calls / steps:6.1f} calls {one.ns / steps / 1e3:9.1f} µs", end="")
            print(f" (floor {floor:8.1f}) {moved}" if one.bytes else "")
    rest = wall - sum(one.ns for one in spent) / 1e9
    moved = sum(one.bytes for one in spent)
    print(f"    {'outside':12s} {'':12s} {rest / steps * 1e6:9.1f} µs (scheduling, sampling, Python)")
    print(f"    {'all':12s} {'':12s} {wall / steps * 1e6:9.1f} µs (floor {moved / steps / rate * 1e6:8.1f})")


@dataclass(frozen=True, slots=True)
class Measure:
    """What to run on a rig, and how to say it."""

    rig: Rig
    library: Library
    rate: float
    args: argparse.Namespace

    @property
    def mode(self) -> int:
        """What the profile counts."""
        return (2 if self.args.cpu_time else 1) if self.args.profile else 0

    def decode(self, size: int) -> None:
        """`size` sequences with prompts of 128 tokens, 64 tokens each: only the steps that generate count."""
        runs: list[tuple[float, list[Spent], int]] = []
        for _ in range(self.args.repeat):
            for _ in range(size):
                self.rig.submit(self.args.prompt, self.args.output, self.args.temperature)
            while any(s.computed < s.prompt_len for s in _all(self.rig.loop.scheduler)):
                self.rig.loop.step()
            self.library.profile(on=self.mode)
            took = self.rig.drain()
            runs.append((sum(took), self.library.profile(on=0), len(took)))
        wall, spent, steps = min(runs, key=lambda run: run[0] / run[2])
        print(f"decode  bs {size:<3d} {wall / steps * 1e3:8.2f} ms {size * steps / wall:8.0f} tok/s", flush=True)
        if self.args.profile:
            table(f"decode bs {size}", spent, steps, wall, self.rate)

    def prefill(self, count: int, length: int) -> None:
        """`count` prompts of `length` tokens, one token each."""
        runs: list[tuple[float, list[Spent]]] = []
        for _ in range(self.args.repeat):
            for _ in range(count):
                self.rig.submit(length, 1, self.args.temperature)
            self.library.profile(on=self.mode)
            runs.append((sum(self.rig.drain()), self.library.profile(on=0)))
        wall, spent = min(runs, key=lambda run: run[0])
        print(f"prefill {count}×{length:<5d} {wall * 1e3:8.1f} ms {count * length / wall:8.0f} tok/s", flush=True)
        if self.args.profile:
            table(f"prefill {count}×{length}", spent, 1, wall, self.rate)


def _all(scheduler: Scheduler) -> list[Any]:
    return [*scheduler.running, *scheduler.waiting]


def pss_bytes() -> int:
    """Memory of this process, shared pages by their share."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))


def policy_file(wanted: str, directory: Path) -> str:
    """A named quantisation; with `-bf16-attention` at its end, a file that says so."""
    name, suffix, _ = wanted.partition("-bf16-attention")
    if not suffix:
        return wanted
    path = directory / f"{wanted}.json"
    path.write_text(json.dumps(replace(NAMED[name], attention="none").document()))
    return str(path)


def measure(args: argparse.Namespace, wanted: str, directory: Path) -> None:
    """Load and measure one quantisation."""
    start = time.perf_counter()
    quantization = policy_file(wanted, directory)
    config = EngineConfig(
        str(args.model),
        kernels="cpu",
        quantization=quantization,
        max_model_len=LENGTH,
        enable_prefix_cache=False,
        max_num_batched_tokens=args.budget,
    )
    model = loader.load(config)
    if not isinstance(model, FusedModel):
        raise SystemExit("no compiler, no kernels to measure")
    loaded = time.perf_counter() - start
    threads = args.threads or machine.usable_cores()
    torch.set_num_threads(threads)
    before = probe(model.library, threads)
    name = f"{wanted}: {model.library.name}, {threads} threads"
    print(f"{name}, probe {before / 1e9:.1f} GB/s, loaded in {loaded:.2f} s", flush=True)
    measure = Measure(rig(model, config), model.library, before, args)
    for size in args.batch:
        measure.decode(size)
    for count, length in ((1, 512), (8, 128)) if args.prefill else ():
        measure.prefill(count, length)
    after = probe(model.library, threads)
    print(f"{wanted}: probe after {after / 1e9:.1f} GB/s, PSS {pss_bytes() / 2**20:.0f} MiB", flush=True)


def main() -> None:
    """Measure the quantisations that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quantization", nargs="*", default=["int8", "int4"], help="also int8-bf16-attention, …")
    parser.add_argument(
        "--model", type=Path, help="a checkpoint; default: the 904 M shape, made once with random weights"
    )
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--no-prefill", dest="prefill", action="store_false")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--budget", type=int, default=1024, help="tokens of a step")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="a table per operation")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, in the table: for a busy machine")
    args = parser.parse_args()
    args.threads = 1 if args.cpu_time else args.threads
    args.model = args.model or checkpoint()
    with tempfile.TemporaryDirectory() as scratch:
        for wanted in args.quantization:
            measure(args, wanted, Path(scratch))


if __name__ == "__main__":
    main()
