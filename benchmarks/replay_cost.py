"""Prints what it costs to compute 1 000 output tokens again after a core died, against prefilling the same tokens."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.steps import SMALL
from engine.caching.pool import BlockPool
from engine.modeling.deepseek import Model
from engine.modeling.loader import load
from engine.running.runner import Runner
from engine.scheduling.admission import Limits
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.wire.messages import Sampling, Submit
from tests.engine.checkpoints import make_checkpoint

PROMPT, OUTPUT = 24, 1000


class Bench:
    """Scheduler, runner and cache of one model; every run starts on an empty cache."""

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._config = replace(config, enable_prefix_cache=False)
        blocks = -(-2 * (PROMPT + OUTPUT) // config.block_size)
        limits = Limits(model.spec.vocab_size, model.spec.max_positions, blocks * config.block_size)
        self._scheduler = Scheduler(self._config, limits, BlockPool(blocks))
        self._runner = Runner(model, model.new_cache(blocks, config.block_size), config.block_size)

    def cost(self, submit: Submit) -> tuple[float, float]:
        """Wall and CPU seconds until the sequence has its next token."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._scheduler.add(submit)
        while not self._scheduler.is_idle:
            plan = self._scheduler.schedule()
            self._scheduler.commit(plan, self._runner.run(plan))
        return time.perf_counter() - wall, time.process_time() - cpu


def compare(model: Model, config: EngineConfig, repeat: int) -> None:
    """Alternate replay and prefill; print medians and their ratio."""
    ids = torch.randint(model.spec.vocab_size, (PROMPT + OUTPUT,), generator=torch.Generator().manual_seed(1)).tolist()
    once = Sampling(seed=1, max_tokens=1)
    prefill = Submit(1, ids, once)
    replay = Submit(2, ids[:PROMPT], Sampling(seed=1, max_tokens=OUTPUT + 1), output_ids=ids[PROMPT:], resumed=True)
    bench = Bench(model, config)
    bench.cost(prefill), bench.cost(replay)  # warm up
    pairs = [(bench.cost(prefill), bench.cost(replay)) for _ in range(repeat)]
    for index, name in ((0, "wall"), (1, "cpu ")):
        prefills, replays = ([pair[which][index] for pair in pairs] for which in (0, 1))
        ratios = statistics.median(b / a for a, b in zip(prefills, replays, strict=True))
        print(
            f"{config.dtype:9} {name}: prefill of {len(ids)} tokens {1e3 * statistics.median(prefills):7.1f} ms, "
            f"replay {1e3 * statistics.median(replays):7.1f} ms, ratio {ratios:.2f}"
        )


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint; default: random weights of the bundled model's dimensions")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.model or str(make_checkpoint(Path(directory) / "model", "v3", **SMALL))
        for dtype in ("float32", "bfloat16"):
            config = EngineConfig(model=path, dtype=dtype, kernels="reference")
            compare(load(config), config, arguments.repeat)


if __name__ == "__main__":
    main()
