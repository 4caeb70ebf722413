"""FP8 blocks: every element times the scale of its block, partial blocks included."""

from __future__ import annotations

import pytest
import torch

from engine.quant.fp8 import dequantise, scale_shape
from tests.engine.checkpoints import quantise_blocks


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (576, 260), (1, 1), (129, 127), (16, 300)])
@pytest.mark.parametrize("block", [(128, 128), (128, 64), (3, 5)])
def test_each_element_has_its_blocks_scale(rows: int, columns: int, block: tuple[int, int]) -> None:
    """Dequantisation equals element × scale[row // block, column // block]."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(scale_shape(rows, columns, block), generator=generator)
    r, c = torch.arange(rows) // block[0], torch.arange(columns) // block[1]
    assert torch.equal(dequantise(weight, scale, block), weight.float() * scale[r][:, c])


def test_quantised_blocks_come_back_close() -> None:
    """The generator's blocks dequantise to within FP8's half step of the largest value of their block."""
    weight = torch.randn(152, 200, generator=torch.Generator().manual_seed(1))
    stored, scale = quantise_blocks(weight)
    assert scale.shape == scale_shape(152, 200, (128, 128)) == (2, 2)
    assert (dequantise(stored, scale, (128, 128)) - weight).abs().max() <= weight.abs().max() / 448 * 16
