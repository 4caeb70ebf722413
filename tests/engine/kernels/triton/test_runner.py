"""What the runner of a GPU does around the model: filters, draws, and inputs as captured steps take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.layers.batch import StepBatch
from engine.layers.cache import LatentCache
from engine.modeling import device
from engine.running.batch import build
from engine.running.device import DeviceRunner, is_drawn_here, only_kept
from engine.running.graphs import decode_inputs, decode_rows, is_decode, sizes
from engine.running.kept import kept
from engine.running.runner import Runner
from engine.scheduling.plan import StepPlan, Work
from engine.scheduling.sequence import Sequence
from engine.spec.config import EngineConfig
from engine.wire.messages import Sampling
from tests.engine.checkpoints import make_checkpoint
from tests.engine.drive import submit
from tests.engine.kernels.triton import DEVICE

_VOCAB = 300


class _Random:
    """A model whose logits depend on the last token and position alone."""

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        """[S, vocab]; one row of a poisoned token is not a number."""
        del cache
        rows: list[Tensor] = []
        for row in batch.rows.tolist():
            seed = int(batch.token_ids[row]) * 1000 + int(batch.positions[row])
            rows.append(torch.randn(_VOCAB, generator=torch.Generator().manual_seed(seed)) * 3)
            if int(batch.token_ids[row]) == 13:
                rows[-1][5] = float("nan")
        return torch.stack(rows).to(DEVICE)


class _OnHost(_Random):
    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        return super().forward(batch, cache).cpu()


def _work(index: int, tokens: list[int], prompt: int, **wishes: Any) -> Work:
    sequence = Sequence.of(submit(index, tokens[:prompt], **wishes), index, 0.0)
    sequence.tokens = list(tokens)
    sequence.blocks = [2 * index, 2 * index + 1]
    start = 0 if len(tokens) == prompt else len(tokens) - 1
    return Work(sequence, start, len(tokens) - start)


_WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0}, {}, {"temperature": 0.4}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2, "temperature": 1.7},
    {"top_p": 0.9, "top_k": 40, "seed": (1 << 64) - 3}, {"logprobs": 3}, {"frequency_penalty": 1.0},
    {"logit_bias": {7: 30.0}}, {"min_tokens": 9, "stop_token_ids": (1, 2)},
)  # fmt: skip


def test_outcomes_are_those_of_the_host() -> None:
    """Every kind of wish, in one step, with a prompt, generated rows and a row that is not a number."""
    works = [_work(i, [3 + i, 9, 40 + i], 2, **wishes) for i, wishes in enumerate(_WISHES)]
    works += [_work(20, [5, 6, 7, 8], 4), _work(21, [4, 5, 13], 2)]
    cache = LatentCache(1, 64, 16, 4, torch.float32)
    plan = StepPlan(tuple(works))
    found = DeviceRunner(_Random(), cache).run(plan)  # type: ignore[arg-type] - only its forward is used
    assert found == Runner(_OnHost(), cache, 16).run(plan)
    assert [outcome.error is not None for outcome in found] == [False] * (len(works) - 1) + [True]
    assert [is_drawn_here(work) for work in works[: len(_WISHES)]] == [True] * 7 + [False] * 4


@pytest.mark.parametrize("seed", range(4))
def test_filters_keep_the_same_ids(seed: int) -> None:
    """top-k, top-p and min-p alone and together, with ties: the ids that the host's filters keep."""
    generator = np.random.default_rng(seed)
    rows = np.round(generator.standard_normal((40, 97)) * 3, 1).astype(np.float32)  # rounded: many ties
    samplings = [
        Sampling(
            seed=1, max_tokens=1, temperature=float(generator.choice([0.5, 1.0, 2.0])),
            top_k=int(generator.choice([0, 1, 7, 97])), top_p=float(generator.choice([1.0, 0.3, 0.95])),
            min_p=float(generator.choice([0.0, 0.05])),
        )
        for _ in rows
    ]  # fmt: skip
    found = only_kept(torch.from_numpy(rows.copy()).to(DEVICE), samplings).cpu().numpy()
    for row, left, one in zip(rows, found, samplings, strict=True):
        expected = kept(row.astype(np.float64) / one.temperature, one.top_k, one.top_p, one.min_p)
        assert np.flatnonzero(left > -np.inf).tolist() == (list(range(97)) if expected is None else expected.tolist())


def test_a_captured_steps_inputs_mean_the_same(tmp_path: Path) -> None:
    """Three generated rows rounded up to four: their logits are those of the step as it is laid out otherwise."""
    path = make_checkpoint(tmp_path, "v3")
    model = device.load(EngineConfig(model=str(path), dtype="float32"), torch.device(DEVICE))
    cache = model.new_cache(8, 16)
    for layer in cache.layers:
        layer[: cache.nowhere].normal_()
    works = [_work(i, list(range(4 + 11 * i)), 2) for i in range(3)]
    assert all(is_decode(work) for work in works)
    expected = model.forward(build(works, 16), cache)
    inputs = decode_inputs(works, 4, 5, cache).to(DEVICE)
    with torch.inference_mode():
        found = model.compute(decode_rows(model, inputs, 4, cache), cache)
    torch.testing.assert_close(found[:3], expected, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(found).all()


def test_sizes_are_few_and_reach_the_most() -> None:
    """Largest first; the most is among them, and no two neighbours are further apart than 32."""
    for most in (1, 3, 8, 64, 100, 256):
        found = sizes(most)
        assert found[0] == most
        assert found == sorted(set(found), reverse=True)
        assert all(a - b <= 32 for a, b in zip(found, [*found[1:], 0], strict=True))
