"""Steps of our engine without its server: `python -m benchmarks.engine_peers.inside_dsctl JSON`, run as a child.

Decode steps take random tokens, as llama.cpp's bench does, so that experts are visited as a checkpoint without
habits visits them. With "what": "distinct" it counts instead which experts the same steps visit.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads take the kernels' cores

import torch
from torch import Tensor

from benchmarks.engine_peers.shape import ANSWER, CONFIG, PROMPT, SPECIALS
from benchmarks.steps import BLOCK, batch_of
from engine.layers.batch import StepBatch
from engine.layers.router import Router
from engine.modeling.loader import Loaded, load
from engine.spec.config import EngineConfig

_COUNTED_STEPS = 8


def tokens_of(rows: int, length: int, seed: int) -> Tensor:
    """Random ids [rows, length], other ones for every seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SPECIALS, CONFIG["vocab_size"], (rows, length), generator=generator)


def decode_batches(tokens: Tensor, steps: int) -> tuple[StepBatch, list[StepBatch]]:
    """The prompts of all rows as one batch, and `steps` decode steps after it."""
    rows, blocks = tokens.shape[0], -(-tokens.shape[1] // BLOCK)
    prompts = batch_of(tokens, [0] * rows, PROMPT, blocks, generated=False)
    return prompts, [batch_of(tokens, [PROMPT + i] * rows, 1, blocks, generated=True) for i in range(steps)]


def fill(model: Loaded, tokens: Tensor, cache: Any) -> None:
    """Prefill row after row, so that the workspace stays small."""
    rows, blocks = tokens.shape[0], -(-tokens.shape[1] // BLOCK)
    for row in range(rows):
        own = batch_of(tokens, [0] * rows, PROMPT, blocks, generated=False)
        part = slice(row * PROMPT, (row + 1) * PROMPT)
        segment = own.segments[row]
        alone = type(segment)(0, PROMPT, 0, False, segment.block_table)
        ids = StepBatch(own.token_ids[part], own.positions[part], own.slots[part], (alone,), torch.tensor([PROMPT - 1]))
        model.forward(ids, cache)


def decode(model: Loaded, rows: int, rounds: int) -> list[float]:
    """Tokens per second of ANSWER steps after random prompts, once a round."""
    speeds: list[float] = []
    for number in range(rounds):
        tokens = tokens_of(rows, PROMPT + ANSWER, rows * 100 + number)
        cache = model.new_cache(rows * (-(-tokens.shape[1] // BLOCK)), BLOCK)
        fill(model, tokens, cache)
        steps = decode_batches(tokens, ANSWER)[1]
        model.forward(steps[0], cache)
        start = time.perf_counter()
        for step in steps:
            model.forward(step, cache)
        speeds.append(rows * ANSWER / (time.perf_counter() - start))
    return speeds


def prefill(model: Loaded, prompts: int, length: int, rounds: int) -> list[float]:
    """Tokens per second of one step with `prompts` whole prompts."""
    speeds: list[float] = []
    for number in range(rounds + 1):
        tokens = tokens_of(prompts, length, 7000 + number)
        cache = model.new_cache(prompts * (-(-length // BLOCK)), BLOCK)
        batch = batch_of(tokens, [0] * prompts, length, -(-length // BLOCK), generated=False)
        start = time.perf_counter()
        model.forward(batch, cache)
        speeds.append(prompts * length / (time.perf_counter() - start))
    return speeds[1:]  # the first one warms up


def distinct(model: Loaded, rows: int) -> list[float]:
    """Distinct experts of each MoE layer, averaged over decode steps of `rows` sequences."""
    seen: list[list[int]] = []
    choose = Router.choose

    def counting(self: Router, x: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        ids, weights = choose(self, x, tile)
        seen[-1].append(int(ids[:rows].unique().numel()))  # rows beyond are padding
        return ids, weights

    tokens = tokens_of(rows, PROMPT + ANSWER, rows * 100)
    cache = model.new_cache(rows * (-(-tokens.shape[1] // BLOCK)), BLOCK)
    fill(model, tokens, cache)
    Router.choose = counting
    try:
        for step in decode_batches(tokens, _COUNTED_STEPS)[1]:
            seen.append([])
            model.forward(step, cache)
    finally:
        Router.choose = choose
    return [sum(layer) / len(layer) for layer in zip(*seen, strict=True)]


def main() -> None:
    """Measure what the JSON argument asks for and print one RESULT line."""
    wish = json.loads(sys.argv[1])
    torch.set_num_threads(wish["threads"])
    start = time.perf_counter()
    model = load(EngineConfig(wish["model"], max_model_len=1024, **wish["options"]))
    result: dict[str, Any] = {"load_s": time.perf_counter() - start}
    if wish.get("what") == "distinct":
        result["distinct"] = {rows: distinct(model, rows) for rows in wish["batches"]}
    else:
        result["decode"] = {rows: decode(model, rows, wish["rounds"]) for rows in wish["batches"]}
        result["prefill"] = {f"{n}×{m}": prefill(model, n, m, wish["rounds"]) for n, m in wish["prefills"]}
        result["notes"] = [f"numerics {model.numerics}"]
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
