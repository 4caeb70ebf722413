"""Two real processes over Gloo compute what one computes: stages and experts to the bit, heads within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    with Ranks(2, threads=1, on_lost=lambda: None) as ranks:
        yield ranks


def logits(model: Any, vocab: int) -> Tensor:
    """Of one sequence, prompt and output, computed alone."""
    ids = torch.randint(vocab, (PROMPT + OUTPUT,), generator=torch.Generator().manual_seed(5))
    return alone(model, ids, PROMPT)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_ranks(pair: Ranks, tmp_path: Path, variant: str, dtype: str) -> None:
    """Two stages and two halves of the experts give the bits of one rank; two halves of the heads 1e-4 σ of it."""
    path = str(make_checkpoint(tmp_path / variant, variant))
    whole = load(EngineConfig(path, kernels="reference", dtype=dtype))  # type: ignore[arg-type]
    expected = logits(whole, whole.spec.vocab_size)
    sigma = float(expected.std())
    for axis in ("pipeline", "expert", "tensor"):
        settings = {f"{axis}_parallel_size": 2}
        model = pair.load(EngineConfig(path, kernels="reference", dtype=dtype, **settings))  # type: ignore[arg-type]
        found = logits(model, whole.spec.vocab_size)
        if axis == "tensor":
            assert (found - expected).abs().max() <= (1e-4 if dtype == "float32" else 2e-2) * sigma
            assert model.numerics != whole.numerics
        else:
            assert torch.equal(found, expected), axis
            assert model.numerics == whole.numerics
        assert check(model) == "", axis  # type: ignore[arg-type]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_are_rounded_before_they_are_cut(pair: Ranks, tmp_path: Path, quantization: str) -> None:
    """The values of a quantised matrix do not depend on how many ranks share it."""
    path = str(make_checkpoint(tmp_path / "model", "v3-fp8"))
    whole = load(EngineConfig(path, kernels="reference", dtype="float32", quantization=quantization))
    expected = logits(whole, whole.spec.vocab_size)
    for axis in ("expert", "tensor"):
        settings = {f"{axis}_parallel_size": 2}
        config = EngineConfig(path, dtype="float32", quantization=quantization, **settings)  # type: ignore[arg-type]
        found = logits(pair.load(config), whole.spec.vocab_size)
        if axis == "expert":
            assert torch.equal(found, expected)
        divergence = (expected.softmax(-1) * (expected.log_softmax(-1) - found.log_softmax(-1))).sum(-1)
        assert divergence.max() <= 1e-4


def test_what_does_not_divide_is_refused_by_name(pair: Ranks, tmp_path: Path) -> None:
    """A setting that does not divide the model says which number it does not divide and what would."""
    path = str(make_checkpoint(tmp_path / "model", "v3"))
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 3.*num_attention_heads \(4\).*1, 2, 4"):
        pair.load(EngineConfig(path, kernels="reference", dtype="float32", tensor_parallel_size=3))
    with pytest.raises(ConfigError, match=r"expert_parallel_size is 3.*8 routed experts"):
        pair.load(EngineConfig(path, kernels="reference", dtype="float32", expert_parallel_size=3))
    with pytest.raises(ConfigError, match="only 3 layers"):
        pair.load(EngineConfig(path, kernels="reference", dtype="float32", pipeline_parallel_size=4))


def test_a_rank_that_cannot_load_says_why(pair: Ranks, tmp_path: Path) -> None:
    """A damaged checkpoint is an error that names the file, on every rank, and the next load works."""
    path = make_checkpoint(tmp_path / "model", "v3")
    good = str(make_checkpoint(tmp_path / "good", "v3"))
    for file in path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        pair.load(EngineConfig(str(path), dtype="float32", expert_parallel_size=2))
    assert pair.load(EngineConfig(good, dtype="float32", expert_parallel_size=2)).spec.num_layers == 3
