"""A step that fails costs the guilty sequence and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.layers.batch import StepBatch
from engine.running.batch import build
from engine.running.runner import Runner
from engine.scheduling.plan import StepPlan, Work
from engine.scheduling.sequence import Sequence
from engine.wire.messages import Sampling, Submit, Top

VOCAB, SIZE = 50, 4


class HashModel:
    """Logits are a function of token and position; token 13 breaks the step, token 14 makes its row NaN."""

    def __init__(self, most_rows: int = 1000) -> None:
        self.most_rows = most_rows
        self.calls = 0

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        self.calls += 1
        if batch.token_ids.numel() > self.most_rows:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        if (batch.token_ids == 13).any():
            raise ValueError("token 13")
        ids, positions = batch.token_ids[batch.rows], batch.positions[batch.rows]
        logits = torch.sin(torch.arange(VOCAB) * (1.0 + ids[:, None]) + positions[:, None] * 0.7)
        logits[ids == 14] = float("nan")
        return logits


def _work(seq: int, tokens: list[int], start: int = 0, count: int | None = None, **more: Any) -> Work:
    sampling = {name: more.pop(name) for name in ("prompt_logprobs", "logprobs") if name in more}
    submit = Submit(seq, tokens, Sampling(0, 9, temperature=0.0, **sampling), **more)
    sequence = Sequence.of(submit, seq, 0.0)
    sequence.blocks = [3 * seq + i for i in range(sequence.blocks_needed(SIZE))]
    sequence.computed = start
    return Work(sequence, start, len(sequence.tokens) - start if count is None else count)


def _run(works: list[Work], model: HashModel | None = None) -> list[Any]:
    return Runner(model or HashModel(), None, SIZE).run(StepPlan(tuple(works)))


def test_rows_are_laid_out_by_sequence_and_role() -> None:
    """Ids, positions, slots, segments and wanted rows of a decode, a replay across the border, and a middle chunk."""
    works = [
        _work(0, [1, 2, 3, 4], start=4, output_ids=[5]),
        _work(1, [1, 2, 3], start=1, output_ids=[6, 7]),
        _work(2, [1, 2, 3, 4, 5, 6, 7], start=2, count=3),
    ]
    batch = build(works, SIZE)
    assert batch.token_ids.tolist() == [5, 2, 3, 6, 7, 3, 4, 5]
    assert batch.positions.tolist() == [4, 1, 2, 3, 4, 2, 3, 4]
    assert batch.slots.tolist() == [4, 13, 14, 15, 16, 26, 27, 28]
    assert batch.rows.tolist() == [0, 4]
    found = [(s.start, s.length, s.position, s.generated, s.block_table.tolist()) for s in batch.segments]
    assert found == [
        (0, 1, 4, True, [0, 1]),
        (1, 2, 1, False, [3, 4]),
        (3, 2, 3, True, [3, 4]),
        (5, 3, 2, False, [6, 7]),
    ]


def test_an_empty_plan_costs_nothing() -> None:
    """Nothing to compute: the model is not called."""
    model = HashModel()
    assert _run([], model) == []
    assert model.calls == 0


@pytest.mark.parametrize("guilty", range(5))
def test_an_exception_ends_only_the_guilty(guilty: int) -> None:
    """The step is halved until the sequence that breaks it is alone; the others choose what they would have chosen."""
    works = [_work(i, [13 if i == guilty else 1 + i, 2, 3]) for i in range(5)]
    outcomes = _run(works)
    expected = [_run([work])[0] for work in works]
    assert [outcome.token for outcome in outcomes] == [one.token for one in expected]
    assert [i for i, outcome in enumerate(outcomes) if outcome.error] == [guilty]
    assert "token 13" in outcomes[guilty].error


def test_want_of_memory_makes_steps_smaller() -> None:
    """A step too large for the memory is computed in halves and nobody is lost."""
    works = [_work(i, [1, 2, 3]) for i in range(8)]
    outcomes = _run(works, HashModel(most_rows=7))
    assert [outcome.token for outcome in outcomes] == [outcome.token for outcome in _run(works)]


def test_nan_ends_only_its_sequence() -> None:
    """Logits that are not finite are an error of that sequence, with words."""
    outcomes = _run([_work(0, [1, 2]), _work(1, [1, 14]), _work(2, [1, 3])])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "not finite" in outcomes[1].error


def test_prompt_logprobs_come_by_position() -> None:
    """A chunk brings the tops of the tokens after each of its rows, within the prompt only."""
    tokens = [1, 2, 3, 4, 5]
    whole = _run([_work(0, tokens, prompt_logprobs=1)])[0]
    assert len(whole.prompt_tops) == 4
    assert whole.token is not None
    pieces = [
        *_run([_work(0, tokens, 0, 2, prompt_logprobs=1)])[0].prompt_tops,
        *_run([_work(0, tokens, 2, 3, prompt_logprobs=1)])[0].prompt_tops,
    ]
    assert pieces == whole.prompt_tops
    assert all(isinstance(top, Top) and len(top.ids) == 1 for top in pieces)
    replay = _run([_work(0, tokens, prompt_logprobs=1, output_ids=[6, 7])])[0]
    assert replay.prompt_tops == whole.prompt_tops


def test_unasked_logprobs_are_not_computed() -> None:
    """Tops come only with logprobs, k alternatives each."""
    assert _run([_work(0, [1, 2])])[0].top is None
    top = _run([_work(0, [1, 2], logprobs=3)])[0].top
    assert len(top.ids) == len(top.logprobs) == 3
