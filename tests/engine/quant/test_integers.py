"""Eight- and four-bit weights: packing loses nothing, quantising loses half a step at most."""

from __future__ import annotations

import pytest
import torch

from engine.quant import int4, int8
from engine.quant.policy import convert, rounded

SHAPES = [(1, 1, 32), (1, 64, 64), (3, 70, 96), (2, 130, 160)]


def values(*shape: int) -> torch.Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [*SHAPES, (2, 5, 7)])
def test_eight_bits_pack_and_unpack(shape: tuple[int, int, int]) -> None:
    """Unpacking gives back what was packed."""
    w = int8.quantise(values(*shape))
    again = int8.unpack(int8.pack(w))
    assert torch.equal(again.q, w.q)
    assert torch.equal(again.scale, w.scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_pack_and_unpack(shape: tuple[int, int, int]) -> None:
    """Unpacking gives back what was packed."""
    w = int4.quantise(values(*shape))
    again = int4.unpack(int4.pack(w))
    assert torch.equal(again.q, w.q)
    assert torch.equal(again.scale, w.scale)
    assert again.group == w.group


def test_eight_bits_lose_half_a_step() -> None:
    """Each weight is off by half a step of its channel at most, and the extremes not at all."""
    w = values(40, 96)
    w[7] = 0
    q = int8.quantise(w)
    assert ((int8.dequantise(q)[0] - w).abs() <= q.scale[0, :, None] * 0.5001).all()
    assert q.q.abs().amax(-1).tolist() == [[127 if row != 7 else 0 for row in range(40)]]


def test_four_bits_lose_a_step_at_most() -> None:
    """Half a step, but one at the end of the range that has no room for it."""
    w = values(40, 128)
    w[7] = 0
    q = int4.quantise(w, 32)
    error = (int4.dequantise(q)[0] - w).abs().unflatten(-1, (-1, 32))
    assert (error <= q.scale[0].float().abs()[..., None] * 1.01).all()
    assert error.mean() < 0.3 * q.scale.float().abs().mean()
    assert not int4.dequantise(q)[0, 7].any()


@pytest.mark.parametrize(("inputs", "group"), [(704, 64), (1024, 128), (96, 32), (40, 0)])
def test_the_largest_group_that_divides(inputs: int, group: int) -> None:
    """128, 64 or 32 values share a scale; a width that none divides stays in eight bits."""
    assert int4.group_of(inputs) == group
    assert convert(values(4, inputs), "int4").group == group
    if not group:
        with pytest.raises(ValueError, match="divisible"):
            int4.quantise(values(4, inputs))


def test_rounded_values_are_what_the_matrix_holds() -> None:
    """The reference computes with the very numbers that the packed matrix stands for."""
    w = values(33, 64)
    assert torch.equal(rounded(w, "int8"), int8.dequantise(int8.unpack(convert(w, "int8")))[0])
    assert torch.equal(rounded(w, "int4"), int4.dequantise(int4.unpack(convert(w, "int4")))[0])
    assert torch.equal(rounded(w, "float32"), w)
