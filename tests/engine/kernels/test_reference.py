"""Reference ops against plain arithmetic in float64, and their promise: a row's bits depend on that row alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.linear import linear_rows
from engine.kernels.packed import pack, pack_mlp, padded
from engine.kernels.reference import REFERENCE, mlp_rows, moe, rms_norm, rope, sigmoid, silu_mul
from engine.kernels.rowwise import TILES, is_rowwise, narrowest_tile

TILE = 8
SHAPES = [(24, 12), (40, 16), (64, 262), (96, 144), (160, 176), (264, 1000), (576, 64), (1100, 40)]  # inputs, outputs


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_linear_is_the_product(inputs: int, outputs: int) -> None:
    """Packing, cutting and padding do not change the product; padded outputs are zero."""
    w, x = _randn(outputs, inputs), _randn(24, inputs, seed=1)
    y = linear_rows(x, pack(w), TILE)
    assert y.shape == (24, padded(outputs))
    torch.testing.assert_close(y[:, :outputs].double(), x.double() @ w.double().t(), rtol=1e-4, atol=1e-4)
    assert not y[:, outputs:].any()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_narrow_linear_rounds_only_the_weights(inputs: int, outputs: int) -> None:
    """bfloat16 weights: the float32 product with the rounded weights, also where they are widened in several blocks."""
    w, x = _randn(outputs, inputs), _randn(16, inputs, seed=1)
    y = linear_rows(x, pack(w, torch.bfloat16), TILE)[:, :outputs]
    torch.testing.assert_close(y.double(), x.double() @ w.bfloat16().double().t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_linear_rows_are_strangers(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """Each row has the same bits alone in a tile, in every place and among 47 others."""
    w, x = pack(_randn(outputs, inputs), dtype), _randn(48, inputs, seed=1)
    tile = narrowest_tile({(w.inputs, w.width): w})
    together = linear_rows(x, w, tile)
    assert is_rowwise(w, tile)
    for row in range(32):
        alone = torch.zeros(tile, inputs)
        alone[row * 3 % tile] = x[row]
        assert torch.equal(linear_rows(alone, w, tile)[row * 3 % tile], together[row])


def test_the_narrowest_tile_is_chosen() -> None:
    """A tile is one of the known sizes, and the first that is row-wise."""
    matrices = {(w.inputs, w.width): w for w in (pack(_randn(48, 64)), pack(_randn(16, 600)))}
    tile = narrowest_tile(matrices)
    assert tile in TILES
    assert all(is_rowwise(w, tile) for w in matrices.values())


@pytest.mark.parametrize("function", [sigmoid, lambda x: silu_mul(torch.cat((x, torch.ones_like(x)), -1))])
def test_activations_do_not_depend_on_place(function: object) -> None:
    """The same value gives the same bits wherever in a tensor it stands (torch's own silu and sigmoid do not)."""
    assert callable(function)
    values = _randn(1, 64) * 3
    expected = function(values)
    for before in range(20):
        rows = torch.cat((torch.zeros(1, before), values, torch.zeros(1, 7)), 1)
        assert torch.equal(function(rows)[:, before : before + 64], expected)


def test_activations_are_right_at_the_ends() -> None:
    """Large inputs neither overflow to NaN nor lose their sign."""
    x = torch.tensor([[-1000.0, -20.0, 0.0, 20.0, 1000.0]])
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x))
    acted = silu_mul(torch.cat((x, torch.ones_like(x)), -1))
    torch.testing.assert_close(acted, torch.nn.functional.silu(x), rtol=1e-6, atol=1e-12)


def test_norm_and_rope_follow_their_formulas() -> None:
    """RMS norm divides by the root mean square; RoPE turns neighbouring pairs as complex numbers."""
    x, weight = _randn(16, 40), _randn(40, seed=1)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    torch.testing.assert_close(rms_norm(x, weight, 1e-6).double(), expected, rtol=1e-5, atol=1e-6)
    heads, angles = _randn(16, 3, 8, seed=2), _randn(16, 4, seed=3)
    turned = torch.view_as_complex(heads.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)[:, None]
    cos = angles.cos().repeat_interleave(2, 1)
    sin = angles.sin().repeat_interleave(2, 1) * torch.tensor([-1.0, 1.0]).repeat(4)
    torch.testing.assert_close(rope(heads, cos, sin), torch.view_as_real(turned).flatten(-2))


def _expert_weights(count: int, hidden: int, inner: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    shapes = ((inner, hidden), (inner, hidden), (hidden, inner))
    return [
        (_randn(*shapes[0], seed=3 * e) / 5, _randn(*shapes[1], seed=3 * e + 1) / 5, _randn(*shapes[2], seed=3 * e + 2))
        for e in range(count)
    ]


def _plain_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (torch.nn.functional.silu(x @ gate.t()) * (x @ up.t())) @ down.t()


def test_moe_is_the_weighted_sum_of_experts() -> None:
    """Dispatch to tiles and back gives Σ weight · expert(x), for experts with none, few and many rows."""
    weights = _expert_weights(6, 40, 24)
    experts = [pack_mlp(*w) for w in weights]
    x = _randn(24, 40, seed=50)
    ids = torch.tensor([[0, 2], [2, 0], [0, 5]] * 6 + [[2, 3]])
    scale = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1))
    found = moe(x, ids, scale, experts, TILE)
    exact = [[e.double() for e in w] for w in weights]
    for row in range(ids.shape[0]):
        parts = [scale[row, j].double() * _plain_mlp(x[row : row + 1].double(), *exact[ids[row, j]]) for j in range(2)]
        torch.testing.assert_close(found[row : row + 1].double(), sum(parts), rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def test_moe_rows_are_strangers() -> None:
    """A token's experts give the same bits whoever else chose them."""
    experts = [pack_mlp(*w) for w in _expert_weights(6, 40, 24)]
    x = _randn(24, 40, seed=50)
    ids = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i))[:3] for i in range(24)])
    scale = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1))
    tile = narrowest_tile({(w.inputs, w.width): w for w in (experts[0].gate_up, experts[0].down)})
    together = moe(x, ids, scale, experts, tile)
    for row in range(24):
        alone = torch.zeros(tile, 40)
        alone[0] = x[row]
        assert torch.equal(moe(alone, ids[row : row + 1], scale[row : row + 1], experts, tile)[0], together[row])


def test_mlp_pads_odd_widths() -> None:
    """An inner width that is no multiple of 16 gives the plain MLP."""
    (weights,) = _expert_weights(1, 40, 27)
    x = _randn(8, 40)
    expected = _plain_mlp(x.double(), *(w.double() for w in weights))
    torch.testing.assert_close(mlp_rows(x, pack_mlp(*weights), TILE).double(), expected, rtol=1e-4, atol=1e-4)


def test_heads_rows_is_a_product_per_head() -> None:
    """Every head has its own matrix; tiles do not change bits."""
    x, w = _randn(24, 4, 16), _randn(4, 16, 32, seed=1)
    found = REFERENCE.heads_rows(x, w, TILE)
    torch.testing.assert_close(found, torch.einsum("thn,hnm->thm", x, w), rtol=1e-4, atol=1e-5)
    alone = torch.zeros(TILE, 4, 16)
    alone[5] = x[17]
    assert torch.equal(REFERENCE.heads_rows(alone, w, TILE)[5], found[17])
