"""Drives scheduler and runner on a tiny real model within the test, and keeps the logits of every position computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine.caching.pool import BlockPool
from engine.layers.batch import StepBatch
from engine.modeling.loader import Loaded
from engine.running.runner import Runner
from engine.scheduling.admission import Limits
from engine.scheduling.plan import StepPlan
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.wire.messages import Delta, Sampling, Submit

CONFIG = EngineConfig(model="none", block_size=16, max_num_batched_tokens=512, max_num_seqs=40, max_queue=100)


class AllRows:
    """A model that also computes, and keeps, the logits of rows nobody asked for."""

    def __init__(self, model: Loaded) -> None:
        self.model = model
        self.logits = torch.empty(0)

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        """Logits of the wanted rows; those of all rows stay in `logits`."""
        self.logits = self.model.forward(replace(batch, rows=torch.arange(batch.token_ids.numel())), cache)
        return self.logits[batch.rows]


@dataclass
class Told:
    """What became of one sequence."""

    ids: list[int] = field(default_factory=list)
    logits: dict[int, Tensor] = field(default_factory=dict)  # by position; computed again must mean the same bits
    deltas: list[Delta] = field(default_factory=list)


class Engine:
    """A core without its process."""

    def __init__(self, model: Loaded, *, blocks: int = 256, garbage: bool = False, **settings: Any) -> None:
        self.config = replace(CONFIG, **settings)
        size = self.config.block_size
        limits = Limits(model.spec.vocab_size, model.spec.max_positions, blocks * size)
        self.scheduler = Scheduler(self.config, limits, BlockPool(blocks))
        cache = model.new_cache(blocks, size)
        if garbage:
            for layer in cache.layers:
                layer[: cache.nowhere] = float("nan")
        self.model = AllRows(model)
        self.runner = Runner(self.model, cache, size)
        self.told: dict[int, Told] = {}
        self.time: Callable[[StepPlan], float] = lambda plan: 0.0  # seconds that a step is said to have taken

    def add(self, *submits: Submit) -> None:
        """Submit sequences."""
        for submit in submits:
            self.told[submit.seq] = Told()
            self.scheduler.add(submit)

    def step(self) -> StepPlan:
        """One step; every position computed again must have the bits it had before."""
        plan = self.scheduler.schedule()
        outcomes = self.runner.run(plan)
        row = 0
        for work in plan.works:
            told = self.told[work.sequence.submit.seq]
            for position in range(work.start, work.end):
                logits = self.model.logits[row].clone()
                assert torch.equal(told.logits.setdefault(position, logits), logits), f"position {position} changed"
                row += 1
        self.scheduler.commit(plan, outcomes, self.time(plan))
        self.scheduler.check()
        refused, deltas = self.scheduler.take_events()
        assert not refused, refused
        for delta in deltas:
            self.told[delta.seq].deltas.append(delta)
            self.told[delta.seq].ids += delta.ids
        return plan

    def drain(self) -> None:
        """Step until every sequence has ended."""
        while not self.scheduler.is_idle:
            assert self.step().works

    def run(self, *submits: Submit) -> list[Told]:
        """Submit, drain, and say what became of each."""
        self.add(*submits)
        self.drain()
        return [self.told[submit.seq] for submit in submits]


def submit(seq: int, prompt: Iterable[int], length: int = 16, **more: Any) -> Submit:
    """A sequence with seeded sampling unless told otherwise; fields of Sampling and of Submit by name."""
    fields = set(Sampling.__struct_fields__)
    sampling = {"seed": 7, **{name: value for name, value in more.items() if name in fields}}
    others = {name: value for name, value in more.items() if name not in fields}
    return Submit(seq, list(prompt), Sampling(max_tokens=length, **sampling), **others)


def prompt_of(seed: int, length: int, vocab: int) -> list[int]:
    """Random token ids."""
    return torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
