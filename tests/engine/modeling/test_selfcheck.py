"""The start-up proof of row-wise bits: it holds for every variant here, and it notices arithmetic that is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.kernels.linear import linear_rows
from engine.kernels.packed import Packed
from engine.modeling.deepseek import Model
from engine.modeling.loader import load
from engine.modeling.selfcheck import check
from engine.spec.config import Dtype, EngineConfig
from tests.engine.checkpoints import VARIANTS, make_checkpoint


@pytest.fixture(autouse=True)
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bits_are_rowwise_on_this_machine(tmp_path: Path, variant: str, dtype: Dtype) -> None:
    """Chunks, replay, companions and threads change no bit of any logit."""
    model = load(EngineConfig(str(make_checkpoint(tmp_path, variant)), kernels="reference", dtype=dtype))
    assert check(model) == ""
    assert torch.get_num_threads() == 1


def _crowded(x: Tensor, w: Packed, tile: int) -> Tensor:
    """A product whose rounding depends on how many rows there are."""
    y = linear_rows(x, w, tile)
    return y * (1.0 + 1e-6 * (x.shape[0] // tile - 1))


def test_arithmetic_that_sees_its_companions_is_noticed(tmp_path: Path) -> None:
    """A product that depends on the number of rows is reported with the arrangement that shows it."""
    model = load(EngineConfig(str(make_checkpoint(tmp_path)), kernels="reference", dtype="float32"))
    assert "change the logits' bits" in check(_with_linear(model))


def _with_linear(model: Model) -> Model:
    ops = replace(model.ops, linear_rows=_crowded)
    layers = tuple(
        replace(
            layer,
            attention=replace(layer.attention, ops=ops),
            feed_forward=replace(layer.feed_forward, ops=ops),
        )
        for layer in model.layers
    )
    return replace(model, ops=ops, layers=layers)
