"""Weights made by name: the same every time, spread as real ones of the same format would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.modeling.dummy import Dummy
from engine.modeling.loader import load
from engine.quant import int4, int8
from engine.spec.config import EngineConfig
from engine.spec.policy import NAMED
from tests.engine.arrangements import alone
from tests.engine.checkpoints import make_config
from tests.engine.compiled import library

NAME = "model.layers.1.mlp.experts.3.gate_proj.weight"
SHAPES = {NAME: (256, 1024), "model.norm.weight": (64,), "model.layers.1.mlp.gate.weight": (8, 64)}


def _shares(numbers: Tensor) -> Tensor:
    """How often each of the 256 values of a byte occurs."""
    return torch.bincount(numbers.view(torch.uint8).flatten(), minlength=256) / numbers.numel()


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_numbers_are_as_frequent_as_rounding_a_normal_law_makes_them(bits: str) -> None:
    """Frequencies differ by less than 10 % in all from those of quantised floats; the deviation by less than 5 %."""
    drawn = Dummy(SHAPES, NAMED[bits]).quantised(NAME)
    floats = torch.randn(256, 1024, generator=torch.Generator().manual_seed(1)) / 32
    if bits == "int4":
        assert isinstance(drawn, int4.Quantised)
        assert (_shares(drawn.q) - _shares(int4.quantise(floats).q)).abs().sum() / 2 < 0.1
    else:
        assert isinstance(drawn, int8.Quantised)
        coarse, real = ((one.q.float() / 8).round().to(torch.int8) for one in (drawn, int8.quantise(floats)))
        assert (_shares(coarse) - _shares(real)).abs().sum() / 2 < 0.25  # a row's own extreme varies
    values = Dummy(SHAPES, NAMED[bits]).get(NAME)
    assert values.std() * 32 == pytest.approx(1, rel=0.05)
    assert abs(values.mean()) * 32 < 0.05


def test_a_name_always_gives_the_same_values() -> None:
    """Order of asking and other names change nothing; other names have other values; norms and routers are floats."""
    first, second = Dummy(SHAPES | {"lm_head.weight": (256, 1024)}, NAMED["int4"]), Dummy(SHAPES, NAMED["int4"])
    head = first.get("lm_head.weight")
    assert torch.equal(first.get(NAME), second.get(NAME))
    assert not torch.equal(head, first.get(NAME))
    assert torch.equal(second.get("model.norm.weight"), torch.ones(64))
    assert second.quantised("model.layers.1.mlp.gate.weight") is None
    assert Dummy(SHAPES).quantised(NAME) is None


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_both_kernels_compute_with_the_same_dummy_weights(
    bits: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled model and the reference are made from the same numbers: their logits go together."""
    (tmp_path / "config.json").write_text(json.dumps(make_config("v3")))
    compiled = library(request.config, None)
    monkeypatch.setattr("engine.modeling.loader.load_library", lambda: compiled)
    ids = torch.tensor([5, 6, 7, 8, 9, 10, 11])
    logits = [
        alone(load(EngineConfig(str(tmp_path), kernels=kernels, load_format="dummy", quantization=bits)), ids, 5)  # type: ignore[arg-type]
        for kernels in ("cpu", "reference")
    ]
    found = torch.corrcoef(torch.stack([one.flatten() for one in logits]))[0, 1]
    assert found > 0.95  # the compiled kernels round activations too, which sends some tokens to other experts
