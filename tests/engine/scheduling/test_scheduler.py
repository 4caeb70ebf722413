"""The scheduler's promises one by one, on a cache of a few blocks and a clock of our own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from engine.caching.pool import BlockPool
from engine.scheduling.admission import Limits
from engine.scheduling.plan import Outcome, StepPlan
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.wire.messages import Delta, Refused, Sampling, Submit, Top

CONFIG = EngineConfig(
    model="none", block_size=4, max_num_batched_tokens=16, max_num_seqs=4, max_queue=8, queue_timeout_s=30.0
)
STOP = 9


@dataclass
class Bed:
    """A scheduler, its clock, and everything it has said so far."""

    scheduler: Scheduler
    now: list[float]
    refused: list[Refused] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    def step(self, token: int = 1) -> StepPlan:
        """One step in which every sequence that chooses gets `token`."""
        plan = self.scheduler.schedule()
        self.scheduler.commit(plan, [Outcome(token if work.chooses else None) for work in plan.works], seconds=0.1)
        self.scheduler.check()
        self.collect()
        return plan

    def collect(self) -> None:
        refused, deltas = self.scheduler.take_events()
        self.refused += refused
        self.deltas += deltas

    def drain(self, token: int = 1) -> None:
        for _ in range(500):
            if self.scheduler.is_idle:
                break
            assert self.step(token).works
        assert self.scheduler.is_idle
        self.scheduler.check_drained()

    def of(self, seq: int) -> list[Delta]:
        return [delta for delta in self.deltas if delta.seq == seq]


def _bed(blocks: int = 16, **settings: Any) -> Bed:
    config, now = replace(CONFIG, **settings), [0.0]
    limits = Limits(vocab_size=100, max_model_len=48, kv_tokens=blocks * config.block_size)
    return Bed(Scheduler(config, limits, BlockPool(blocks), lambda: now[0]), now)


def _submit(seq: int, prompt: int | list[int] = 6, max_tokens: int = 4, **more: Any) -> Submit:
    ids = prompt if isinstance(prompt, list) else [(seq * 7 + i) % 50 + 10 for i in range(prompt)]
    sampling = {
        name: more.pop(name) for name in ("min_tokens", "prompt_logprobs", "temperature", "seed") if name in more
    }
    return Submit(seq, ids, Sampling(**{"seed": 0, **sampling}, max_tokens=max_tokens, stop_token_ids=(STOP,)), **more)


def _counts(plan: StepPlan) -> dict[int, int]:
    return {work.sequence.submit.seq: work.count for work in plan.works}


def test_a_sequence_runs_to_its_length() -> None:
    """Prefill chooses the first token, every later step one more; the first delta says what is said once."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 3))
    bed.now[0] = 2.0
    bed.drain()
    assert [delta.ids for delta in bed.of(1)] == [[1], [1], [1]]
    assert [delta.finished for delta in bed.of(1)] == [None, None, "length"]
    assert (bed.of(1)[0].queue_s, bed.of(1)[0].cached_tokens) == (2.0, 0)
    assert bed.of(1)[1].queue_s is None


def test_a_stop_token_ends_and_is_named() -> None:
    """The stop token is the last id and is named in stop_id; max_tokens is not reached."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 9))
    bed.step(5)
    bed.step(STOP)
    assert (bed.of(1)[-1].ids, bed.of(1)[-1].finished, bed.of(1)[-1].stop_id) == ([STOP], "stop", STOP)
    assert bed.scheduler.is_idle


def test_prompts_are_cut_to_the_budget_and_to_the_threshold() -> None:
    """A long prompt takes what the budget leaves, and no more than long_prefill_threshold in one step."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 40, 2))
    assert [bed.step().tokens for _ in range(3)] == [16, 16, 8]
    bed = _bed(long_prefill_threshold=5)
    bed.scheduler.add(_submit(1, 12, 2))
    bed.scheduler.add(_submit(2, 4, 2))
    assert [_counts(bed.step()) for _ in range(3)] == [{1: 5, 2: 4}, {1: 5, 2: 1}, {1: 2}]


def test_running_sequences_keep_their_pace_beside_a_long_prompt() -> None:
    """A decode is served before a prompt that could fill the budget."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 4, 8))
    bed.step()
    bed.scheduler.add(_submit(2, 40, 1, priority=-1))
    assert _counts(bed.step()) == {1: 1, 2: 15}
    assert _counts(bed.step()) == {1: 1, 2: 15}


def test_waiting_sequences_start_by_priority_then_arrival() -> None:
    """With one place, the smaller priority goes first, then the older; one that was admitted before leads its own."""
    bed = _bed(max_num_seqs=1)
    for seq, priority, resumed in ((1, 1, False), (2, 0, False), (3, 0, False), (4, 0, True)):
        bed.scheduler.add(_submit(seq, 4, 1, priority=priority, resumed=resumed))
    order = [next(iter(_counts(bed.step()))) for _ in range(4)]
    assert order == [4, 2, 3, 1]


def test_a_prompt_hits_prefill_blocks_but_not_decode_blocks() -> None:
    """The prompt part of an earlier sequence is found; what that sequence generated is not, unless asked for."""
    prompt = list(range(10, 18))
    for reuse, cached in ((False, 8), (True, 12)):
        bed = _bed(reuse_output_blocks=reuse)
        bed.scheduler.add(_submit(1, prompt, 6))
        bed.drain(token=3)
        bed.scheduler.add(_submit(2, [*prompt, 3, 3, 3, 3, 3, 7], 1))
        bed.drain()
        assert bed.of(2)[0].cached_tokens == cached


@pytest.mark.parametrize("length", range(1, 14))
def test_a_fully_known_prompt_still_computes_its_last_token(length: int) -> None:
    """The second run of the same prompt finds every full block before its last token and computes the rest."""
    bed = _bed()
    prompt = list(range(10, 10 + length))
    for seq in (1, 2):
        bed.scheduler.add(_submit(seq, prompt, 1))
        plan = bed.step()
    assert bed.of(2)[0].cached_tokens == (length - 1) // 4 * 4
    assert plan.tokens == length - (length - 1) // 4 * 4
    assert bed.scheduler.counters.prefix_queries == 2 * length


def test_preemption_takes_the_youngest_and_resumes_it_with_all_its_tokens() -> None:
    """When blocks run out the youngest gives way, finds its own blocks again role by role, and loses no token."""
    bed = _bed(blocks=5)
    bed.scheduler.add(_submit(1, 8, 12))
    bed.scheduler.add(_submit(2, 7, 9))
    bed.drain()
    assert bed.scheduler.counters.preemptions > 0
    for seq, length in ((1, 12), (2, 9)):
        assert sum(len(delta.ids) for delta in bed.of(seq)) == length
        assert [delta.finished for delta in bed.of(seq) if delta.finished] == ["length"]
        assert len([1 for delta in bed.of(seq) if delta.queue_s is not None]) == 1
    assert bed.of(1)[-1] in bed.deltas[: bed.deltas.index(bed.of(2)[-1])]  # the older one was never held up


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "code"), [(40, 9, "context_length_exceeded"), (9, 24, "kv_cache_exceeded")]
)
def test_what_never_fits_is_refused_with_numbers_and_hurts_nobody(prompt: int, max_tokens: int, code: str) -> None:
    """An oversized request is a 400 that says how large and how large it may be; its neighbours end as usual."""
    bed = _bed(blocks=8 if code == "kv_cache_exceeded" else 16)
    bed.scheduler.add(_submit(1, 6, 4))
    bed.scheduler.add(_submit(2, prompt, max_tokens))
    bed.drain()
    (refused,) = bed.refused
    assert (refused.seq, refused.status, refused.code) == (2, 400, code)
    assert str(prompt + max_tokens) in refused.message
    assert bed.of(1)[-1].finished == "length"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [1, 100]}, "100"),
        ({"output_ids": [-1]}, "-1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": 1 << 64}, "seed"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_absurd_input_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    """Input no model could serve is a 400 that names it."""
    bed = _bed()
    bed.scheduler.add(_submit(1, **change))
    bed.collect()
    assert bed.refused[0].status == 400
    assert word in bed.refused[0].message
    assert bed.scheduler.is_idle


def test_a_full_queue_is_a_503_with_a_time() -> None:
    """Beyond the queue limit new sequences are refused with retry_after; resumed ones are not."""
    bed = _bed(max_num_seqs=1, max_queue=2)
    for seq in (1, 2, 3):
        bed.scheduler.add(_submit(seq))
    bed.scheduler.add(_submit(4, resumed=True))
    bed.collect()
    (refused,) = bed.refused
    assert (refused.seq, refused.status, refused.code) == (3, 503, "queue_full")
    assert refused.retry_after_s is not None
    assert refused.retry_after_s >= 1
    bed.drain()


def test_retry_after_follows_the_measured_rate() -> None:
    """The longer the queue at a known rate, the later a client is told to come back."""
    times: list[float] = []
    for waiting in (2, 6):
        bed = _bed(max_num_seqs=1, max_queue=waiting)
        bed.scheduler.add(_submit(0, 16, 20))
        bed.drain()  # 160 prompt tokens and 10 output tokens a second, 20 tokens a sequence
        for seq in range(1, waiting + 2):
            bed.scheduler.add(_submit(seq))
        bed.collect()
        assert bed.refused[0].retry_after_s is not None
        times.append(bed.refused[0].retry_after_s)
    assert times == [5.0, 13.0]


def test_waiting_too_long_is_a_503_and_only_for_what_never_ran() -> None:
    """The queue time-out refuses fresh sequences only; a sequence's own limit overrides the configured one."""
    bed = _bed(max_num_seqs=1)
    bed.scheduler.add(_submit(1, 6, 20))
    bed.step()
    bed.scheduler.add(_submit(2))
    bed.scheduler.add(_submit(3, queue_timeout_s=5.0))
    bed.scheduler.add(_submit(4, resumed=True))
    bed.now[0] = 5.0
    bed.step()
    assert [(one.seq, one.status, one.code) for one in bed.refused] == [(3, 503, "queue_timeout")]
    bed.now[0] = 100.0
    bed.drain()
    assert {one.seq for one in bed.refused} == {2, 3}
    assert bed.of(4)[-1].finished == "length"


def test_admission_waits_for_company_but_not_for_long() -> None:
    """With a preferred batch size, waiting sequences start together or when the delay is over."""
    bed = _bed(preferred_batch_size=2, max_queue_delay_ms=100)
    bed.scheduler.add(_submit(1))
    assert not bed.step().works
    assert bed.scheduler.patience() == pytest.approx(0.1)
    bed.now[0] = 0.1
    assert bed.scheduler.patience() == 0
    assert _counts(bed.step()) == {1: 6}
    bed.scheduler.add(_submit(2))
    assert _counts(bed.step()) == {1: 1}  # a running sequence is never held
    bed.scheduler.add(_submit(3))
    assert _counts(bed.step()) == {1: 1, 2: 6, 3: 6}


def test_abort_frees_blocks_at_once_in_every_state() -> None:
    """Waiting, half computed and running sequences end with one abort each; an unknown number is ignored."""
    bed = _bed(max_num_seqs=2)
    bed.scheduler.add(_submit(1, 4, 9))
    bed.step()
    bed.scheduler.add(_submit(2, 40, 2))
    bed.scheduler.add(_submit(3))
    bed.step()
    bed.scheduler.abort([1, 2, 3, 77])
    bed.scheduler.abort([1])
    bed.scheduler.check()
    bed.collect()
    assert [(d.seq, d.finished) for d in bed.deltas if d.finished] == [(1, "abort"), (2, "abort"), (3, "abort")]
    assert bed.scheduler.pool.used == 0


def test_a_replay_goes_on_where_it_stopped() -> None:
    """A resumed sequence computes prompt and output, then chooses only what is missing."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 5, output_ids=[1, 1, 1], resumed=True))
    plan = bed.step()
    assert plan.tokens == 9
    assert plan.prompt_tokens == 6
    bed.drain()
    assert [delta.ids for delta in bed.of(1)] == [[1], [1]]
    assert bed.of(1)[-1].finished == "length"


@pytest.mark.parametrize(
    ("output", "finished"), [([1, STOP], "stop"), ([1, 1, 1, 1], "length"), ([1, 1, 1, 1, 1], "length")]
)
def test_a_whole_output_ends_at_once(output: list[int], finished: str) -> None:
    """A replay of an output that had already ended costs nothing and says how it ended."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 4, output_ids=output, resumed=True))
    bed.collect()
    assert [(delta.ids, delta.finished) for delta in bed.of(1)] == [([], finished)]
    assert bed.of(1)[0].stop_id == (STOP if finished == "stop" else None)
    assert bed.scheduler.is_idle


def test_prompt_logprobs_compute_every_position_and_come_once() -> None:
    """With prompt_logprobs nothing is taken from the cache, in chunks and after a preemption too."""
    bed = _bed()
    prompt = list(range(10, 30))
    bed.scheduler.add(_submit(1, prompt, 1))
    bed.drain()
    for seq, wanted in ((2, True), (3, False)):
        bed.scheduler.add(_submit(seq, prompt, 1, prompt_logprobs=0, want_prompt_logprobs=wanted))
        computed = 0
        while not bed.scheduler.is_idle:
            plan = bed.scheduler.schedule()
            (work,) = plan.works
            computed += work.count
            places = range(work.start + 1, min(work.end, 19) + 1) if work.sequence.prompt_tops is not None else []
            tops = [Top(-float(place), 1, [], []) for place in places]
            bed.scheduler.commit(plan, [Outcome(1 if work.chooses else None, prompt_tops=tops)])
        bed.collect()
        (delta,) = bed.of(seq)
        assert computed == (20 if wanted else 4)
        if wanted:
            assert delta.prompt_tops is not None
            assert [top and top.logprob for top in delta.prompt_tops] == [None, *(-float(i) for i in range(1, 20))]
        else:
            assert delta.prompt_tops is None


def test_scoring_a_prompt_needs_no_token() -> None:
    """max_tokens 0 ends at once, or after the prompt when its logprobs are wanted."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 0))
    bed.scheduler.add(_submit(2, 6, 0, prompt_logprobs=0))
    bed.drain()
    assert [(d.ids, d.finished) for d in (*bed.of(1), *bed.of(2))] == [([], "length"), ([], "length")]
    assert bed.of(2)[0].prompt_tops == [None] * 6


def test_a_failed_sequence_ends_alone_and_its_blocks_are_forgotten() -> None:
    """An error ends one sequence; what it wrote is not found by the next one with the same prompt."""
    bed = _bed()
    prompt = list(range(10, 22))
    bed.scheduler.add(_submit(1, prompt, 4))
    bed.step()
    bed.scheduler.add(_submit(2, 4, 2))
    plan = bed.scheduler.schedule()
    bed.scheduler.commit(plan, [Outcome(error="broken"), Outcome(1)])
    bed.scheduler.check()
    bed.drain()
    assert (bed.of(1)[-1].finished, bed.of(1)[-1].error) == ("error", "broken")
    assert bed.of(2)[-1].finished == "length"
    bed.scheduler.add(_submit(3, prompt, 1))
    bed.drain()
    assert bed.of(3)[0].cached_tokens == 0


def test_a_number_is_used_once() -> None:
    """A second submission of a live number does not disturb the first."""
    bed = _bed()
    bed.scheduler.add(_submit(1, 6, 2))
    bed.scheduler.add(_submit(1, 8, 2))
    bed.drain()
    assert [delta.finished for delta in bed.of(1)] == [None, "length"]
    assert not bed.refused
