"""Fused experts and linear products in every number format, on odd shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.kernels.triton import experts as fused
from engine.kernels.triton import weights as formats
from engine.kernels.triton.fp8 import eight
from engine.quant import device, int4, int8
from tests.engine.kernels.triton import DEVICE, HALF

_FORMATS = ("plain", "int8", "int4", "fp8")


def _weight(name: str, shape: tuple[int, int, int], seed: int) -> formats.Weight:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[2] ** 0.5
    if name == "int8":
        made = device.from_int8(int8.quantise(w))
    elif name == "int4":
        made = device.from_int4(int4.quantise(w))
    elif name == "fp8":
        scale = 0.5 + torch.rand(shape[0], -(-shape[1] // 128), -(-shape[2] // 128))
        made = device.from_fp8(w.to(torch.float8_e4m3fn), scale, 128)
    else:
        made = device.plain(w, torch.float32)
    scale = None if made.scale is None else made.scale.to(DEVICE)
    return formats.Weight(made.format, made.values.to(DEVICE), scale, made.inputs, made.group)


def _by_hand(x: Tensor, ids: Tensor, weights: Tensor, mlps: fused.Mlps) -> Tensor:
    gate_up, down = formats.dequantise(mlps.gate_up).cpu(), formats.dequantise(mlps.down).cpu()
    y = torch.zeros(x.shape[0], gate_up.shape[2])
    for row in range(x.shape[0]):
        for k in range(ids.shape[1]):
            e = int(ids[row, k])
            if 0 <= e < gate_up.shape[0]:
                gate, up = (gate_up[e] @ x[row].float()).chunk(2)
                y[row] += weights[row, k] * (down[e] @ (torch.nn.functional.silu(gate) * up))
    return y


@pytest.mark.parametrize("name", _FORMATS)
@pytest.mark.parametrize(("tokens", "hidden", "inner"), [(1, 64, 32), (5, 96, 160), (33, 192, 96)])
def test_experts_match_the_sum_by_hand(name: str, tokens: int, hidden: int, inner: int) -> None:
    """Every format and odd shape: the weighted sum of the chosen experts within float32 rounding."""
    torch.manual_seed(tokens)
    held, top_k = 7, 3
    mlps = fused.Mlps(_weight(name, (held, 2 * inner, hidden), 1), _weight(name, (held, hidden, inner), 2))
    x = torch.randn(tokens, hidden)
    ids = torch.stack([torch.randperm(held + 2)[:top_k] for _ in range(tokens)]).int()  # two experts are elsewhere
    weights = torch.rand(tokens, top_k)
    found = fused.experts(x.to(DEVICE), ids.to(DEVICE), weights.to(DEVICE), mlps)
    torch.testing.assert_close(found.cpu(), _by_hand(x, ids, weights, mlps), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", _FORMATS)
@pytest.mark.parametrize("rows", [1, 17, 33])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (100, 96), (130, 320)])
def test_linear_matches_the_reference(name: str, rows: int, outputs: int, inputs: int) -> None:
    """One matrix in every format with rows, outputs and inputs that fill no tile."""
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    w = _weight(name, (1, outputs, inputs), 3)
    expected = x @ formats.dequantise(w)[0].cpu().T
    torch.testing.assert_close(fused.linear(x.to(DEVICE), w).cpu(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", _FORMATS)
def test_half_rows_lose_only_their_own_rounding(name: str) -> None:
    """Half precision in and out: within its rounding of the float32 result of the same rows."""
    x = torch.randn(9, 128).to(HALF)
    w = _weight(name, (1, 64, 128), 4)
    if name == "plain":
        w = replace(w, values=w.values.to(HALF))
    found = fused.linear(x.to(DEVICE), w)
    assert found.dtype == HALF
    expected = x.float() @ formats.dequantise(w)[0].cpu().T
    torch.testing.assert_close(found.float().cpu(), expected, atol=3e-2, rtol=2e-2)


@pytest.mark.parametrize("inputs", [128, 320])
def test_rounded_rows_are_multiplied_as_rounded(inputs: int) -> None:
    """Float8 rows times float8 blocks: exactly the product of the two rounded matrices."""
    x = torch.randn(5, inputs) * 3
    w = _weight("fp8", (1, 144, inputs), 5)
    small = eight(x.to(DEVICE), 128)
    wide = small.values.float() * small.scale.repeat_interleave(128, 1)[:, :inputs]
    expected = wide.cpu() @ formats.dequantise(w)[0].cpu().T
    found = fused.linear(x.to(DEVICE), w, rounded=True).cpu()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize("width", [128, 200])
def test_rows_are_rounded_block_by_block(width: int, powers: bool) -> None:
    """A block's largest value lands on the end of the range (or below a power of two); zeros have a scale."""
    x = torch.randn(4, width) * torch.tensor([1.0, 100.0, 1e-6, 0.0])[:, None]
    small = eight(x.to(DEVICE), 128, powers)
    scale = small.scale.cpu()
    parts = torch.nn.functional.pad(x, (0, -width % 128)).view(4, -1, 128).abs().amax(-1).clamp_min(1e-4) / 448
    expected = torch.exp2(torch.ceil(torch.log2(parts))) if powers else parts
    torch.testing.assert_close(scale, expected)
    if DEVICE == "cpu":
        return  # the interpreter's own conversion to float8 loses a carry; the hardware's is checked below
    exact = (x / scale.repeat_interleave(128, 1)[:, :width]).to(torch.float8_e4m3fn)
    assert (small.values.cpu().float() == exact.float()).float().mean() > 0.999  # a quotient may be one ulp off


def test_a_row_that_is_not_a_number_spoils_only_itself() -> None:
    """NaN and infinity stay in their row."""
    x = torch.randn(4, 64)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    w = _weight("int8", (1, 32, 64), 6)
    found = fused.linear(x.to(DEVICE), w).cpu()
    clean = fused.linear(x[[0, 3]].to(DEVICE), w).cpu()
    assert not torch.isfinite(found[1]).any()
    assert not torch.isfinite(found[2]).any()
    torch.testing.assert_close(found[[0, 3]], clean)
