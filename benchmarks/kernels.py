"""Prints what the CPU kernels reach: GB/s beside a read probe of the same run, GFLOP/s of tiles, and whole steps."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engine_peers.shape import CONFIG
from benchmarks.steps import BLOCK, batch_of
from engine.kernels.cpu.library import Library, load
from engine.kernels.cpu.matrix import Matrix, Mlps, stacked
from engine.modeling import loader
from engine.quant.policy import Stored, convert
from engine.spec.config import EngineConfig

FORMATS: list[Stored] = ["float32", "bfloat16", "int8", "int4"]
WORKING_SET = 600 << 20  # bytes of weights that a round visits: more than any cache holds


@dataclass(frozen=True, slots=True)
class Bench:
    """A build of the kernels, threads, and how often the least time is looked for."""

    library: Library
    threads: int
    repeat: int
    clock: Callable[[], float] = time.perf_counter
    probe_rate: float = 1.0  # bytes per second, of this run

    def seconds(self, run: Callable[[int], object], rounds: int = 1) -> float:
        """Least mean time of run(0) … run(rounds - 1), after a warm-up."""
        best = float("inf")
        for _ in range(self.repeat + 1):
            start = self.clock()
            for index in range(rounds):
                run(index)
            best = min(best, (self.clock() - start) / rounds)
        return best

    def probe(self) -> float:
        """Bytes per second that plain wide loads get."""
        memory = torch.ones(WORKING_SET // 4)
        return WORKING_SET / self.seconds(lambda _: self.library.stream(memory, self.threads))


def matrices(outputs: int, inputs: int, wanted: Stored) -> list[Matrix]:
    """Enough copies that none is in a cache when its turn comes."""
    first = convert(torch.randn(outputs, inputs), wanted)
    copies = max(1, WORKING_SET // first.nbytes)
    shape = (first.experts, first.outputs, first.inputs)
    return [Matrix(first.kind, shape, [t.clone() for t in first.tensors], first.group) for _ in range(copies)]


def linears(bench: Bench, outputs: int, inputs: int) -> None:
    """One line per format and number of rows."""
    for wanted in FORMATS:
        copies = matrices(outputs, inputs, wanted)
        for rows in (1, 4, 8, 32, 256):
            x = torch.randn(rows, inputs)
            count = min(len(copies), max(1, 512 // rows))
            took = bench.seconds(lambda i, x=x, copies=copies: bench.library.linear(copies[i], x, bench.threads), count)
            speed, work = copies[0].nbytes / took, 2 * rows * outputs * inputs / took
            print(f"linear {wanted:9s} {outputs}×{inputs} M={rows:<4d} {took * 1e6:9.1f} µs", end=" ")
            print(f"{speed / 1e9:7.1f} GB/s {speed / bench.probe_rate:5.0%} of probe {work / 1e9:8.0f} GFLOP/s")


def experts(bench: Bench) -> None:
    """Layers of 32 experts of the model above, each round another layer and other experts, so that none is cached."""
    shapes = ((704, 1024), (704, 1024), (1024, 704))
    for wanted in FORMATS:
        first = Mlps(*(stacked([convert(torch.randn(32, *shape) / 32, wanted)]) for shape in shapes))
        one = sum(m.nbytes for m in first.matrices) / 32
        layers = [Mlps(*(stacked([m]) for m in first.matrices)) for _ in range(math.ceil(WORKING_SET / (32 * one)))]
        for rows in (1, 8, 32, 256):
            x = torch.randn(rows, 1024)
            ids = [torch.stack([torch.randperm(32)[:4] for _ in range(rows)]) for _ in range(max(16, 128 // rows))]
            weights = torch.rand(rows, 4)

            def run(i: int, x: Tensor = x, ids: list[Tensor] = ids, w: Tensor = weights) -> None:
                bench.library.moe(x, (ids[i], w), layers[i % len(layers)], bench.threads)  # noqa: B023

            took = bench.seconds(run, len(ids))
            distinct = sum(len(chosen.unique()) for chosen in ids) / len(ids)
            speed = distinct * one / took
            print(f"experts {wanted:9s} T={rows:<4d} {distinct:4.1f} distinct {took * 1e6:9.1f} µs", end=" ")
            print(f"{speed / 1e9:7.1f} GB/s {speed / bench.probe_rate:5.0%} of probe")


def steps(bench: Bench, quantization: str) -> None:
    """Decode and prefill steps of the 904 M model with random weights."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "config.json").write_text(json.dumps(CONFIG))
        start = time.perf_counter()
        model = loader.load(
            EngineConfig(scratch, load_format="dummy", kernels="cpu", quantization=quantization, max_model_len=2048)
        )
        print(f"steps {quantization}: loaded in {time.perf_counter() - start:.1f} s")
    torch.set_num_threads(bench.threads)
    blocks = 1024 // BLOCK
    tokens = torch.randint(32000, (32, 1024))
    cache = model.new_cache(32 * blocks, BLOCK)
    for size in (1, 8, 32):
        # other tokens every round: the same ones would find their experts in the cache of a large processor
        batches = [batch_of(tokens, [128 + i] * size, 1, blocks, generated=True) for i in range(16)]
        took = bench.seconds(lambda i, batches=batches: model.forward(batches[i], cache), len(batches))
        print(f"steps {quantization}: decode bs {size:<3d} {took * 1e3:8.2f} ms {size / took:8.0f} tok/s")
    for count, length in ((1, 512), (8, 128)):
        batch = batch_of(tokens, [0] * count, length, blocks, generated=False)
        took = bench.seconds(lambda _, batch=batch: model.forward(batch, cache))
        print(f"steps {quantization}: prefill {count}×{length} {took * 1e3:8.1f} ms {count * length / took:8.0f} tok/s")


def main() -> None:
    """Measure linears, experts and whole steps, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["linear", "experts", "int8", "int4"], help="what to measure")
    parser.add_argument("--isa", help="an instruction set instead of the best")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine: one thread, and only its own time")
    args = parser.parse_args()
    library = load(args.isa)
    if library is None:
        raise SystemExit("no compiler, no kernels to measure")
    torch.set_num_threads(1)
    threads = 1 if args.cpu_time else args.threads
    bench = Bench(library, threads, args.repeat, time.process_time if args.cpu_time else time.perf_counter)
    print(f"{library.name}, {threads} threads, {'cpu' if args.cpu_time else 'wall'} time")
    for part in args.parts:
        bench = replace(bench, probe_rate=bench.probe())
        print(f"probe: {bench.probe_rate / 1e9:.1f} GB/s")
        if part == "linear":
            linears(bench, 2816, 2048)
        elif part == "experts":
            experts(bench)
        else:
            steps(bench, part)


if __name__ == "__main__":
    main()
