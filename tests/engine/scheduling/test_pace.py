"""With a target, prompts are cut so that running streams keep their pace; without one nothing changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.caching.pool import BlockPool
from engine.scheduling.admission import Limits
from engine.scheduling.pace import FIRST_CHUNK, LEAST_CHUNK, load_of
from engine.scheduling.plan import Outcome, StepPlan
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.steptime import ExpertShape, Load
from engine.spec.config import EngineConfig
from engine.wire.messages import Sampling, Submit

SHAPE = ExpertShape(32, 4)
BLOCKS = 4096


def machine(load: Load) -> float:
    """Seconds of a step on a made-up machine: eight streams take 13 ms, 512 tokens of a prompt 90 ms."""
    return 4e-3 + 0.4e-3 * SHAPE.distinct(load.tokens) + 0.15e-3 * load.tokens + 2e-8 * load.context


@dataclass
class Bed:
    """A scheduler whose steps take what `time` says."""

    scheduler: Scheduler
    time: Callable[[Load], float]
    plans: list[tuple[StepPlan, float]] = field(default_factory=list)
    added: int = 0

    def add(self, prompt: int, output: int, priority: int = 0) -> None:
        self.added += 1
        ids = [(self.added * 31 + i) % 900 for i in range(prompt)]
        self.scheduler.add(Submit(self.added, ids, Sampling(seed=1, max_tokens=output), priority=priority))

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule()
        seconds = self.time(load_of(plan.works))
        self.plans.append((plan, seconds))
        self.scheduler.commit(plan, [Outcome(1 if work.chooses else None) for work in plan.works], seconds)
        self.scheduler.check()
        self.scheduler.take_events()
        return plan

    def steps(self, count: int) -> list[tuple[StepPlan, float]]:
        first = len(self.plans)
        for _ in range(count):
            self.step()
        return self.plans[first:]


def _bed(target_ms: float, time: Callable[[Load], float] = machine, streams: int = 8) -> Bed:
    config = EngineConfig(model="none", target_itl_ms=target_ms, max_num_batched_tokens=512, enable_prefix_cache=False)
    limits = Limits(vocab_size=1000, max_model_len=8192, kv_tokens=BLOCKS * config.block_size)
    bed = Bed(Scheduler(config, limits, BlockPool(BLOCKS), lambda: 0.0, SHAPE), time)
    for _ in range(streams):
        bed.add(64, 4000)
    bed.steps(2)
    return bed


def _prompts(bed: Bed, count: int) -> list[tuple[StepPlan, float]]:
    """Steps from now on until `count` prompts of 2 048 tokens, arriving one after the other, are through."""
    first = len(bed.plans)
    for _ in range(count):
        bed.add(2048, 1)
        while any(one.missing > 1 for one in (*bed.scheduler.running, *bed.scheduler.waiting)):
            bed.step()
        bed.steps(3)
    return bed.plans[first:]


def test_steps_meet_the_target_and_waste_little_of_it() -> None:
    """At 50 ms no step beside streams takes more than 52 once sizes are known; prompts keep 60 % of their speed."""
    bed = _bed(50)
    _prompts(bed, 1)
    seen = [(plan, seconds) for plan, seconds in _prompts(bed, 4) if plan.prompt_tokens]
    assert max(seconds for _, seconds in seen) <= 0.052
    free = [(plan, seconds) for plan, seconds in _prompts(_bed(0), 4) if plan.prompt_tokens]

    def rate(steps: list[tuple[StepPlan, float]]) -> float:
        return sum(plan.prompt_tokens for plan, _ in steps) / sum(seconds for _, seconds in steps)

    assert rate(seen) >= 0.6 * rate(free)
    assert max(seconds for _, seconds in free) > 0.08  # the same load without a target


def test_with_noise_and_outliers_the_99th_percentile_holds() -> None:
    """With 10 % noise 99 % of steps beside streams stay below 1.3 times the target."""
    chance = random.Random(8)
    bed = _bed(50, lambda load: machine(load) * max(0.6, chance.gauss(1.0, 0.1)))
    _prompts(bed, 1)
    times = sorted(seconds for _, seconds in _prompts(bed, 10))
    assert times[int(0.99 * len(times))] <= 0.065


def test_it_starts_small_and_grows_as_it_learns() -> None:
    """The first chunk beside streams is small whatever the target; no step is more than twice the largest seen."""
    bed = _bed(10_000, streams=2)
    bed.add(2048, 1)
    assert bed.step().prompt_tokens == FIRST_CHUNK
    for _ in range(40):
        largest = max(plan.tokens for plan, _ in bed.plans)
        assert bed.step().tokens <= max(2 * largest, FIRST_CHUNK + 2)
    assert max(plan.tokens for plan, _ in bed.plans) == 512


def test_without_streams_prompts_take_the_whole_budget() -> None:
    """Nobody waits for a token while only prompts are computed: the target binds nothing."""
    bed = _bed(1, streams=0)
    bed.add(2000, 1)
    assert [plan.tokens for plan, _ in bed.steps(4)] == [512, 512, 512, 464]


def test_a_target_that_cannot_be_met_does_not_stop_prompts() -> None:
    """With a target below the streams' own time, each step still carries LEAST_CHUNK tokens of a prompt, and streams
    never miss a step."""
    bed = _bed(1)
    bed.steps(6)
    bed.add(200, 1)
    plans = [plan for plan, _ in bed.steps(200 // LEAST_CHUNK)]
    assert [plan.prompt_tokens for plan in plans] == [LEAST_CHUNK] * len(plans)
    assert all(sum(work.count == 1 for work in plan.works) == 8 for plan in plans)


def test_prompts_share_what_a_step_has_left_in_order_of_rank() -> None:
    """The first prompt is served first; a second waits for what the first leaves, and both end."""
    bed = _bed(50)
    _prompts(bed, 2)
    bed.add(1024, 1)
    bed.add(1024, 1)
    order = [work.sequence.arrival for plan, _ in bed.steps(40) for work in plan.works if work.count > 1]
    assert order == sorted(order)
    assert not any(one.missing > 1 for one in bed.scheduler.running)


def test_a_slower_machine_gets_smaller_chunks() -> None:
    """When every step begins to take twice as long, chunks shrink until the target is met again."""
    slow = [1.0]
    bed = _bed(50, lambda load: slow[0] * machine(load))
    before = max(plan.prompt_tokens for plan, _ in _prompts(bed, 4))
    slow[0] = 2.0
    _prompts(bed, 4)
    after = [(plan.prompt_tokens, seconds) for plan, seconds in _prompts(bed, 2)]
    assert max(tokens for tokens, _ in after) < 0.6 * before
    assert max(seconds for _, seconds in after) <= 0.055
