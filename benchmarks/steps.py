"""Prints how long the steps of a model take: decode at several batch sizes, prefill, and replay against prefill."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.modeling.deepseek import Model
from engine.modeling.loader import load
from engine.spec.config import EngineConfig
from tests.engine.checkpoints import make_checkpoint

SMALL = {  # the bundled model's dimensions
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "max_position_embeddings": 2048,
}
BLOCK = 16


def batch_of(tokens: torch.Tensor, starts: list[int], length: int, blocks: int, *, generated: bool) -> StepBatch:
    """`length` rows of each sequence i from position starts[i]; logits of each last row."""
    segments: list[Segment] = []
    positions: list[torch.Tensor] = []
    slots: list[torch.Tensor] = []
    for i, start in enumerate(starts):
        table = torch.arange(blocks) + i * blocks
        own = torch.arange(start, start + length)
        segments.append(Segment(i * length, length, start, generated, table))
        positions.append(own)
        slots.append(table[own // BLOCK] * BLOCK + own % BLOCK)
    ids = torch.cat([tokens[i, start : start + length] for i, start in enumerate(starts)])
    last = torch.arange(1, len(starts) + 1) * length - 1
    return StepBatch(ids, torch.cat(positions), torch.cat(slots), tuple(segments), last)


def cost(run: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Least wall and least CPU milliseconds of one call, after a warm-up: what the step costs on an idle machine."""
    run()
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls) * 1e3, min(cpus) * 1e3


def line(what: str, model: Model, batch: StepBatch, cache: LatentCache, repeat: int) -> float:
    """Print one step's cost; returns its CPU milliseconds."""
    wall, cpu = cost(lambda: model.forward(batch, cache), repeat)
    print(f"{what:32s} {wall:8.2f} ms wall {cpu:8.2f} ms cpu")
    return cpu


def report(model: Model, repeat: int) -> None:
    """Print the table."""
    blocks = 2048 // BLOCK
    tokens = torch.randint(model.spec.vocab_size, (32, 2048), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(32 * blocks, BLOCK)
    for size in (1, 4, 8, 16, 32):
        for context in (64, 256, 1024):
            batch = batch_of(tokens, [context] * size, 1, blocks, generated=True)
            line(f"decode, batch {size}, context {context}", model, batch, cache, repeat)
    for length in (16, 64, 256, 512):
        batch = batch_of(tokens, [0], length, blocks, generated=False)
        line(f"prefill of {length}", model, batch, cache, repeat)
    prefill = batch_of(tokens, [0], 1000, blocks, generated=False)
    replay = batch_of(tokens, [32], 1000, blocks, generated=True)
    first = line("prefill of 1000", model, prefill, cache, repeat)
    again = line("replay of 1000 generated", model, replay, cache, repeat)
    print(f"replay / prefill: {again / first:.2f}")


def main() -> None:
    """Measure a checkpoint, or a random one of the bundled model's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        path = args.model or str(make_checkpoint(Path(scratch), "v3", **SMALL))
        model = load(EngineConfig(path, kernels="reference", dtype=args.dtype))
        print(f"tile {model.tile}, {args.threads} thread(s), {model.numerics}")
        report(model, args.repeat)


if __name__ == "__main__":
    main()
