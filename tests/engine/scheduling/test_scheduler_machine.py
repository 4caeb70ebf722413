"""A state machine over scheduler and cache: in whatever order things come, nothing leaks, starves or ends twice."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.caching.pool import BlockPool
from engine.scheduling.admission import Limits
from engine.scheduling.plan import Outcome, StepPlan, Work
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.wire.messages import Sampling, Submit, Top

STOP, MODEL_LEN, SIZE = 3, 40, 4
STREAMS = ([0, 1, 2, 0, 0, 1, 1, 2] * 5, [0, 1, 2, 0, 0, 1, 1, 2] + [1] * 32)  # prompts with a common beginning


class Machine(RuleBasedStateMachine):
    """Sequences that fit and that do not, aborts, steps, failed steps, time-outs and replays, on a small cache.

    The cache is played too: each slot remembers the beginning it was computed from, so a step that would read a slot
    with another content is seen at once.
    """

    @initialize(
        blocks=st.integers(4, 9),
        budget=st.sampled_from([16, 24, 5, 1]),
        threshold=st.sampled_from([0, 3]),
        preferred=st.sampled_from([0, 3]),
        reuse=st.booleans(),
        caching=st.sampled_from([True, True, True, False]),
    )
    def start(self, blocks: int, budget: int, threshold: int, preferred: int, reuse: bool, caching: bool) -> None:
        config = EngineConfig(
            model="none", block_size=SIZE, max_num_seqs=3, max_num_batched_tokens=budget, max_queue=4,
            long_prefill_threshold=threshold, preferred_batch_size=preferred, max_queue_delay_ms=1000,
            reuse_output_blocks=reuse, enable_prefix_cache=caching, queue_timeout_s=20.0,
        )  # fmt: skip
        self.now = 0.0
        self.limits = Limits(vocab_size=4, max_model_len=MODEL_LEN, kv_tokens=blocks * SIZE)
        self.scheduler = Scheduler(config, self.limits, BlockPool(blocks), lambda: self.now)
        self.slots: dict[int, int] = {}
        self.submits: dict[int, Submit] = {}
        self.outputs: dict[int, list[int]] = {}
        self.ended: Counter[int] = Counter()
        self.started: set[int] = set()

    @rule(
        stream=st.sampled_from(STREAMS),
        length=st.integers(0, 20),
        cut=st.integers(0, 3),
        max_tokens=st.integers(0, 14),
        priority=st.integers(0, 1),
        tops=st.sampled_from([False, False, False, True]),
    )
    def add(self, stream: list[int], length: int, cut: int, max_tokens: int, priority: int, tops: bool) -> None:
        """A prompt of one stream, whose last `cut` tokens are output of an earlier attempt."""
        seq, output = len(self.submits), stream[length : length + cut]
        sampling = Sampling(0, max_tokens, stop_token_ids=(STOP,), prompt_logprobs=0 if tops else None)
        self.submits[seq] = Submit(seq, stream[:length], sampling, output, priority, resumed=bool(output))
        self.outputs[seq] = list(output)
        self.scheduler.add(self.submits[seq])
        self.collect()

    @rule(length=st.integers(0, 60), max_tokens=st.integers(0, 60))
    def add_absurd(self, length: int, max_tokens: int) -> None:
        seq = len(self.submits)
        self.submits[seq] = Submit(seq, [0] * length, Sampling(0, max_tokens, stop_token_ids=(STOP,)))
        self.outputs[seq] = []
        self.scheduler.add(self.submits[seq])
        self.collect()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.submits:
            self.scheduler.abort([data.draw(st.integers(0, len(self.submits)))])
            self.collect()
            self.scheduler.check()

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.1, 1.0, 21.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reset(self) -> None:
        self.scheduler.pool.reset()

    @precondition(lambda self: not self.scheduler.is_idle)
    @rule(count=st.integers(1, 12), stops=st.sampled_from([False, False, False, True]))
    def steps(self, count: int, stops: bool) -> None:
        for _ in range(count):
            self.step(stops=stops)

    @precondition(lambda self: self.scheduler.running)
    @rule(fails=st.integers(0, 2))
    def step_with_failure(self, fails: int) -> None:
        self.step(fails=fails)

    def step(self, stops: bool = False, fails: int = -1) -> None:
        plan = self.scheduler.schedule()
        self.look_at(plan)
        outcomes = [
            Outcome(error="broken") if index == fails else self.play(work, STOP if stops else None)
            for index, work in enumerate(plan.works)
        ]
        self.scheduler.commit(plan, outcomes, 0.1)
        self.scheduler.check()
        self.collect()

    def look_at(self, plan: StepPlan) -> None:
        """The plan keeps the budget, moves every work forward, and reads only slots with the right content."""
        assert plan.tokens <= self.scheduler.config.max_num_batched_tokens
        assert len({work.sequence.submit.seq for work in plan.works}) == len(plan.works)
        writes = Counter(slot for work in plan.works for slot in self.places(work, work.start, work.end))
        assert not writes or max(writes.values()) == 1, "two rows write one slot"
        for work in plan.works:
            assert work.count >= 1
            assert work.start == work.sequence.computed
            for position, slot in enumerate(self.places(work, 0, work.start)):
                assert self.slots[slot] == self.content(work, position), f"position {position} holds something else"

    def places(self, work: Work, start: int, end: int) -> list[int]:
        return [work.sequence.blocks[i // SIZE] * SIZE + i % SIZE for i in range(start, end)]

    def content(self, work: Work, position: int) -> int:
        """Stands for the latent: a function of all tokens up to here and, where it matters, of their roles."""
        prompt_len = work.sequence.prompt_len if not self.scheduler.config.reuse_output_blocks else MODEL_LEN
        return hash((min(prompt_len, position + 1), 0, *work.sequence.tokens[: position + 1]))

    def play(self, work: Work, token: int | None) -> Outcome:
        """Write the slots of one work; choose `token`, or else what the stream goes on with."""
        for position, slot in enumerate(self.places(work, work.start, work.end), work.start):
            self.slots[slot] = self.content(work, position)
        wanted = range(work.start, min(work.end, work.sequence.prompt_len - 1))
        tops = [Top(0.0, 1, [], []) for _ in wanted] if work.sequence.prompt_tops is not None else []
        following = STREAMS[0][work.end] if token is None else token
        return Outcome(following if work.chooses else None, prompt_tops=tops)

    def collect(self) -> None:
        refused, deltas = self.scheduler.take_events()
        for one in refused:
            self.ended[one.seq] += 1
            assert one.seq not in self.started, "a sequence was refused after it had started"
            if one.status == 503:
                assert one.retry_after_s is not None
            else:
                assert self.never_fits(self.submits[one.seq]), f"refused for nothing: {one.message}"
        for delta in deltas:
            assert delta.seq not in self.ended, "something was said after the end"
            assert (delta.queue_s is not None) <= (delta.seq not in self.started)
            self.started.add(delta.seq)
            self.outputs[delta.seq] += delta.ids
            self.ended.update([delta.seq] if delta.finished else [])
            self.look_at_end(delta.seq, delta.finished)

    def look_at_end(self, seq: int, finished: str | None) -> None:
        output, most = self.outputs[seq], self.submits[seq].sampling.max_tokens
        if finished == "stop":
            assert output[-1] == STOP
        elif finished == "length":
            assert len(output) >= most
        elif finished is None:
            assert len(output) < most
            assert STOP not in output

    def never_fits(self, submit: Submit) -> bool:
        total = len(submit.prompt_ids) + submit.sampling.max_tokens
        return not submit.prompt_ids or total > min(MODEL_LEN, self.limits.kv_tokens)

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    def teardown(self) -> None:
        """Once nothing new comes, every sequence ends within as many steps as there are tokens to compute."""
        if not hasattr(self, "scheduler"):
            return
        self.now += 2.0  # no hold lasts longer
        work = sum(len(one.tokens) + one.submit.sampling.max_tokens for one in self.live())
        before = self.scheduler.counters.preemptions
        steps = 0
        while not self.scheduler.is_idle:
            self.step()
            steps += 1
            again = self.scheduler.counters.preemptions - before
            assert steps <= work + again * MODEL_LEN, "a sequence starves"
        counters = self.scheduler.counters
        event(f"preempted: {counters.preemptions > 0}, found in the cache: {counters.prefix_hits > 0}")
        assert self.scheduler.pool.used == 0
        assert self.ended == Counter(list(self.submits)), "a sequence has no end, or two"

    def live(self) -> list:
        return [*self.scheduler.running, *self.scheduler.waiting]


_COMMON = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    stateful_step_count=40,
    phases=(Phase.generate, Phase.shrink),
)


class TestShort(Machine.TestCase):  # type: ignore[name-defined]
    """The same few hundred stories every time."""

    settings = settings(_COMMON, max_examples=400, derandomize=True)


@pytest.mark.long
class TestLong(Machine.TestCase):  # type: ignore[name-defined]
    """New stories each time."""

    settings = settings(_COMMON, max_examples=3000)
