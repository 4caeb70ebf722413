"""Decides, step by step, which tokens of which sequences are computed, within one token budget and one cache."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter

from msgspec import structs

from engine.caching.pool import BlockPool
from engine.scheduling import admission, policy
from engine.scheduling.admission import Limits
from engine.scheduling.pace import Pace
from engine.scheduling.plan import Outcome, StepPlan, Work
from engine.scheduling.sequence import Sequence
from engine.scheduling.steptime import DENSE, ExpertShape
from engine.spec.config import EngineConfig
from engine.spec.errors import RequestError
from engine.wire.messages import Delta, Finish, Refused, Submit, Top

_rank = attrgetter("rank")


@dataclass(slots=True)
class Counters:
    """What has happened since the start."""

    preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # prompt tokens found


class Scheduler:
    """Sequences wait, run and end here; every sequence leaves exactly one terminal event in `take_events`."""

    def __init__(
        self,
        config: EngineConfig,
        limits: Limits,
        pool: BlockPool,
        clock: Callable[[], float] = time.monotonic,
        shape: ExpertShape = DENSE,
    ) -> None:
        self.config = config
        self.limits = limits
        self.pool = pool
        self.waiting: list[Sequence] = []  # by rank
        self.running: list[Sequence] = []  # by rank
        self.counters = Counters()
        self.pace = Pace(config.target_itl_ms / 1000, shape)
        self._rates = policy.Rates()
        self._clock = clock
        self._arrivals = 0
        self._sequences: dict[int, Sequence] = {}
        self._refused: list[Refused] = []
        self._deltas: list[Delta] = []

    @property
    def is_idle(self) -> bool:
        """True when no sequence is left."""
        return not self._sequences

    def add(self, submit: Submit) -> None:
        """Queue a sequence, refuse it with numbers, or end it at once if its output is already whole."""
        if submit.seq in self._sequences:
            return  # a number is used once; a second submission must not end the first
        try:
            admission.check(submit, self.limits)
            if len(self.waiting) >= self.config.queue_limit and not submit.resumed:
                raise self._busy("queue_full", f"{len(self.waiting)} requests are waiting, which is the most that may")
        except RequestError as error:
            self._refused.append(_refusal(submit.seq, error))
            return
        self._arrivals += 1
        sequence = Sequence.of(submit, self._arrivals, self._clock())
        self._sequences[submit.seq] = sequence
        ending = sequence.ending()
        if ending and (submit.output_ids or sequence.prompt_tops is None):
            self._end(sequence, ending)
        else:
            insort(self.waiting, sequence, key=_rank)

    def abort(self, seqs: Iterable[int]) -> None:
        """End these sequences now and free their blocks; unknown numbers are ignored."""
        for seq in seqs:
            sequence = self._sequences.get(seq)
            if sequence is not None:
                self._end(sequence, "abort")

    def schedule(self) -> StepPlan:
        """The next step: running sequences first, then as many waiting ones as budget, cache and policy allow."""
        self._expire()
        works, has_preempted = self._plan_running()
        if not has_preempted:
            works += self._admit(works)
        return StepPlan(tuple(works))

    def _plan_running(self) -> tuple[list[Work], bool]:
        """Works of running sequences, those with one token to go first; and whether one had to give way."""
        works: dict[Sequence, Work] = {}
        budget = self.config.max_num_batched_tokens
        before = self.counters.preemptions
        for sequence in sorted(self.running, key=lambda one: (one.missing > 1, one.rank)):
            if budget <= 0:
                break
            while sequence.blocks and not self._grow(sequence):
                victim = self.running[-1]
                budget += works.pop(victim).count if victim in works else 0
                self._preempt(victim)
            if sequence.blocks:  # it has none when it had to give way itself
                work = self._work(sequence, works.values(), budget)
                if not work.count:
                    break
                works[sequence] = work
                budget -= work.count
        return list(works.values()), self.counters.preemptions > before

    def _grow(self, sequence: Sequence) -> bool:
        """Give a running sequence the block for its newest token; False when none is left."""
        count = sequence.blocks_needed(self.config.block_size) - len(sequence.blocks)
        if count <= 0:
            return True
        held = self.pool.acquire((), count)
        if held is not None:
            sequence.blocks += held[0]
        return held is not None

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's blocks; it waits and is computed again, role by role, to the same bits."""
        self.counters.preemptions += 1
        self._free(sequence)
        self.running.remove(sequence)
        insort(self.waiting, sequence, key=_rank)

    def _work(self, sequence: Sequence, beside: Iterable[Work], budget: int) -> Work:
        """As much of one sequence as the budget, its share of a step, the pace of streams beside it and the memory for
        wanted logits allow; 0 tokens when the pace allows none."""
        most = min(budget, self.config.long_prefill_threshold or budget)
        if sequence.prompt_tops is not None:  # every row wants logits: as many as a full step of decodes has
            most = min(most, self.config.max_num_seqs)
        count = min(sequence.missing, most)
        if sequence.missing > 1:
            count = self.pace.chunk(beside, sequence.computed, count)
        return Work(sequence, sequence.computed, count)

    def _admit(self, running: list[Work]) -> list[Work]:
        """Start waiting sequences in order of rank; the first that does not fit holds the rest back."""
        works: list[Work] = []
        if policy.is_held(self.waiting, self.config, self._clock()):
            return works
        budget = self.config.max_num_batched_tokens - sum(work.count for work in running)
        while self.waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            sequence, beside = self.waiting[0], [*running, *works]
            if not self.pace.chunk(beside, 0, 1) or not self._hold_blocks(sequence):
                break
            insort(self.running, self.waiting.pop(0), key=_rank)
            work = self._work(sequence, beside, budget)
            works.append(work if work.count else replace(work, count=1))
            budget -= works[-1].count
        return works

    def _hold_blocks(self, sequence: Sequence) -> bool:
        """Find and hold the blocks of all known tokens, in one act; the last token is always computed anew."""
        size = self.config.block_size
        keys: list[bytes] = []
        if self.config.enable_prefix_cache and sequence.prompt_tops is None:
            findable = len(sequence.tokens) - 1
            sequence.extend_keys(size, findable, by_role=not self.config.reuse_output_blocks)
            keys = sequence.keys[: findable // size]
        held = self.pool.acquire(keys, sequence.blocks_needed(size))
        if held is None:
            return False
        sequence.blocks, sequence.published = held
        sequence.computed = sequence.published * size
        if sequence.started_s is None:
            sequence.started_s = self._clock()
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_len)
            self.counters.prefix_queries += sequence.prompt_len
            self.counters.prefix_hits += sequence.cached_tokens
        return True

    def commit(self, plan: StepPlan, outcomes: Iterable[Outcome], seconds: float = 0.0) -> int:
        """Take in what a step of `seconds` brought, one outcome per work; returns how many tokens were chosen."""
        chosen, has_failed = 0, False
        for work, outcome in zip(plan.works, outcomes, strict=True):
            has_failed |= outcome.error is not None
            if self._sequences.get(work.sequence.submit.seq) is work.sequence:  # else it was aborted meanwhile
                chosen += self._commit(work, outcome)
        self._rates.step(plan.prompt_tokens, chosen, seconds)
        if not has_failed:  # a failed step was computed more than once
            self.pace.learn(plan, seconds)
        return chosen

    def _commit(self, work: Work, outcome: Outcome) -> int:
        sequence, token = work.sequence, outcome.token
        if outcome.error is not None:
            self.pool.forget(sequence.blocks)  # nobody may find what a failed step has written
            self._end(sequence, "error", error=outcome.error)
            return 0
        sequence.computed = work.end
        self._publish(sequence)
        if sequence.prompt_tops is not None:
            sequence.prompt_tops[work.start + 1 : work.start + 1 + len(outcome.prompt_tops)] = outcome.prompt_tops
        if sequence.missing:
            return 0
        ids = [] if token is None else [token]
        sequence.tokens += ids
        tops = None if outcome.top is None else [outcome.top]
        ending = sequence.ending()
        if ending:
            self._end(sequence, ending, ids, tops)
        else:
            self._deltas.append(self._delta(sequence, ids, tops))
        return len(ids)

    def _publish(self, sequence: Sequence) -> None:
        """Make the blocks that became full findable."""
        if not self.config.enable_prefix_cache:
            return
        sequence.extend_keys(self.config.block_size, sequence.computed, by_role=not self.config.reuse_output_blocks)
        for index in range(sequence.published, sequence.computed // self.config.block_size):
            self.pool.publish(sequence.blocks[index], sequence.keys[index])
            sequence.published = index + 1

    def _delta(
        self, sequence: Sequence, ids: list[int], tops: list[Top] | None = None, finished: Finish | None = None
    ) -> Delta:
        """What a step added; the first delta of a sequence also carries what is said once."""
        is_first, sequence.said_first = not sequence.said_first, True
        prompt_tops, sequence.prompt_tops = sequence.prompt_tops, None
        waited = None if sequence.started_s is None else sequence.started_s - sequence.arrived_s
        return Delta(
            seq=sequence.submit.seq,
            ids=ids,
            finished=finished,
            stop_id=sequence.tokens[-1] if finished == "stop" else None,
            tops=tops,
            prompt_tops=prompt_tops if is_first and finished not in ("abort", "error") else None,
            cached_tokens=sequence.cached_tokens if is_first else None,
            queue_s=waited if is_first else None,
        )

    def _end(
        self,
        sequence: Sequence,
        finished: Finish,
        ids: list[int] | None = None,
        tops: list[Top] | None = None,
        error: str | None = None,
    ) -> None:
        """The one way out of the engine for a sequence that was let in."""
        delta = self._delta(sequence, ids or [], tops, finished)
        self._deltas.append(structs.replace(delta, error=error) if error else delta)
        self._leave(sequence)
        if finished in ("stop", "length"):
            self._rates.finished(sequence.output_len)

    def _leave(self, sequence: Sequence) -> None:
        """Free all that a sequence holds and forget it."""
        self._free(sequence)
        del self._sequences[sequence.submit.seq]
        for queue in (self.running, self.waiting):
            if sequence in queue:
                queue.remove(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.published = 0

    def _expire(self) -> None:
        """Refuse what has waited too long without ever having run."""
        now = self._clock()
        for sequence in list(self.waiting):
            deadline = policy.queue_deadline(sequence, self.config)
            if deadline is not None and now >= deadline:
                error = self._busy("queue_timeout", f"the request waited {now - sequence.arrived_s:.1f} s in the queue")
                self._refused.append(_refusal(sequence.submit.seq, error))
                self._leave(sequence)

    def _busy(self, code: str, what: str) -> RequestError:
        """A 503 that says when to come back."""
        error = RequestError(f"{what}; try again later or on another replica", status=503, code=code)
        error.retry_after_s = self._rates.retry_after_s(self.waiting)
        return error

    def patience(self) -> float | None:
        """Seconds for which nothing is to be done unless a message comes: 0 with work at hand, None for ever."""
        if self.is_idle:
            return None
        if self.running or not policy.is_held(self.waiting, self.config, self._clock()):
            return 0.0
        times = [policy.queue_deadline(sequence, self.config) for sequence in self.waiting]
        times.append(policy.hold_ends(self.waiting, self.config))
        return max(0.0, min(time for time in times if time is not None) - self._clock())

    def take_events(self) -> tuple[list[Refused], list[Delta]]:
        """What has happened since the last call: sequences that never started, and what was added to the others."""
        refused, self._refused = self._refused, []
        deltas, self._deltas = self._deltas, []
        return refused, deltas

    def check_drained(self) -> None:
        """Raise AssertionError unless an idle engine holds nothing; cheap enough for every time it becomes idle."""
        pool = self.pool
        assert not self.running and not self.waiting, "a sequence is undead"
        assert pool.used == 0, f"{pool.used} blocks leaked"
        assert pool.free + pool.cached == pool.total, f"{pool.total - pool.free - pool.cached} blocks are lost"

    def check(self) -> None:
        """Raise AssertionError unless blocks and queues balance."""
        self.pool.check(sequence.blocks for sequence in self.running)
        live = {id(sequence) for sequence in self._sequences.values()}
        assert {id(one) for one in (*self.running, *self.waiting)} == live, "a sequence is lost or undead"
        assert len(self.running) + len(self.waiting) == len(live), "a sequence waits and runs"
        assert len(self.running) <= self.config.max_num_seqs, f"{len(self.running)} sequences run"
        for queue in (self.running, self.waiting):
            assert [one.rank for one in queue] == sorted(one.rank for one in queue), "a queue is out of order"
        assert not any(one.blocks or one.computed for one in self.waiting), "a waiting sequence holds blocks"
        for one in self.running:
            assert one.computed < len(one.tokens), f"sequence {one.submit.seq} has nothing left to compute"
            assert len(one.blocks) * self.config.block_size >= one.computed, "a latent lies outside its table"
        assert self.running or not self.pool.used, "blocks leaked"


def _refusal(seq: int, error: RequestError) -> Refused:
    return Refused(seq, error.status, error.code, str(error), error.retry_after_s)
