"""Several real processes over Gloo compute what one computes: to the bit for stages and experts, within bounds for heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.core.ranks import Ranks
from engine.modeling.loader import load
from engine.modeling.selfcheck import check
from engine.spec.config import EngineConfig
from engine.spec.errors import CheckpointError, ConfigError
from tests.engine.arrangements import alone
from tests.engine.checkpoints import make_checkpoint

PROMPT, OUTPUT = 70, 22
VARIANTS = ("v2-greedy", "v2-group", "v3-yarn", "v3-fp8")


@pytest.fixture(scope="module")
def pair() -> Iterator[Ranks]:
    with Ranks(2, threads=1) as ranks:
        yield ranks


def logits(model: object, vocab: int) -> Tensor:
    """Of one sequence, prompt and output, computed alone."""
    ids = torch.randint(vocab, (PROMPT + OUTPUT,), generator=torch.Generator().manual_seed(5))
    return alone(model, ids, PROMPT)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_ranks(pair: Ranks, tmp_path: Path, variant: str, dtype: str) -> None:
    """Two stages and two halves of the experts give the bits of one rank; two halves of the heads 1e-4 σ of it."""
    path = str(make_checkpoint(tmp_path / variant, variant))
    whole = load(EngineConfig(path, dtype=dtype))  # type: ignore[arg-type]
    expected = logits(whole, whole.spec.vocab_size)
    sigma = float(expected.std())
    for axis in ("pipeline", "expert", "tensor"):
        settings = {f"{axis}_parallel_size": 2}
        model = pair.load(EngineConfig(path, dtype=dtype, **settings))  # type: ignore[arg-type]
        found = logits(model, whole.spec.vocab_size)
        if axis == "tensor":
            assert (found - expected).abs().max() <= (1e-4 if dtype == "float32" else 2e-2) * sigma
            assert model.numerics != whole.numerics
        else:
            assert torch.equal(found, expected), axis
            assert model.numerics == whole.numerics
        assert check(model) == "", axis  # type: ignore[arg-type]
