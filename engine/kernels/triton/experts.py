"""Fused experts: gate, up and SiLU in one grouped product, down in a second, the weighted sum in top-k order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.triton.fp8 import Eight, eight
from engine.kernels.triton.product import times
from engine.kernels.triton.route import Aligned, align
from engine.kernels.triton.weights import Weight

_DEPTH = 64  # values of k that a tile takes at once; an fp8 block is taken whole


@dataclass(frozen=True, slots=True)
class Mlps:
    """SwiGLU of every expert: down(silu(gate(x)) · up(x)); gate lies above up in one matrix."""

    gate_up: Weight  # [E, 2 · inner, hidden]
    down: Weight  # [E, hidden, inner]


@dataclass(frozen=True, slots=True)
class _Call:
    """What a grouped product is told beside its operands."""

    pairs: int
    top_k: int  # pairs that share a row of x
    is_rounded: bool  # x is rounded to float8 first
    is_gated: bool = False  # the matrix holds gate above up


@triton.jit
def _product(
    x_ptr, x_scale_ptr, w_ptr, scale_ptr, y_ptr, pairs_ptr, owners_ptr, total, top_k, outputs, inputs,
    w_stride, scale_stride,
    FORMAT: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EIGHT: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """One block of pairs and COLUMNS of the outputs; `top_k` pairs share a row of x (1: a pair's row is its own).

    GATED: the matrix holds gate above up, and silu(gate) · up comes out.
    """
    owner = tl.load(owners_ptr + tl.program_id(0)).to(tl.int64)
    if owner < 0:
        return
    pairs = tl.load(pairs_ptr + tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    real = (pairs < total)[:, None]
    row = (pairs // top_k)[:, None]
    x_ptrs = x_ptr + row * inputs
    x_scale_ptrs = x_scale_ptr + row * tl.cdiv(inputs, GROUP)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = columns < outputs
    w_ptr += owner * w_stride
    scale_ptr += owner * scale_stride
    y = times(
        x_ptrs, x_scale_ptrs, real, w_ptr, scale_ptr, columns, wanted, inputs,
        FORMAT, GROUP, ROWS, COLUMNS, DEPTH, EIGHT,
    )  # fmt: skip
    if GATED:
        up = times(
            x_ptrs, x_scale_ptrs, real, w_ptr, scale_ptr, outputs + columns, wanted, inputs,
            FORMAT, GROUP, ROWS, COLUMNS, DEPTH, EIGHT,
        )  # fmt: skip
        y = y / (1.0 + tl.exp(-y)) * up
    at = pairs[:, None] * outputs + columns[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=real & wanted[None, :])


@triton.jit
def _sum(pairs_ptr, ids_ptr, weights_ptr, y_ptr, experts, hidden, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """Σ over k, in order, of weight · output; a choice that another rank computes is left out."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < hidden
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        owner = tl.load(ids_ptr + row * TOP_K + k + tl.zeros([COLUMNS], dtype=tl.int32))
        here = inside & (owner >= 0) & (owner < experts)
        part = tl.load(pairs_ptr + (row * TOP_K + k) * hidden + columns, mask=here, other=0.0)
        total += part * tl.load(weights_ptr + row * TOP_K + k)
    tl.store(y_ptr + row * hidden + columns, total.to(y_ptr.dtype.element_ty), mask=inside)


def experts(x: Tensor, ids: Tensor, weights: Tensor, mlps: Mlps, rounded: bool = False) -> Tensor:
    """x [T, hidden], ids int32 [T, k], weights float32 [T, k] → Σ over k in order [T, hidden] in x's type.

    rounded: rows are float8 before each product too (fp8 weights only). Ids of experts that are not held (another
    rank's) add nothing.
    """
    tokens, top_k = ids.shape
    pairs, hidden, held = ids.numel(), mlps.gate_up.inputs, mlps.gate_up.experts
    found = align(ids, held, _rows_of_a_block(pairs, held))
    acted = torch.empty(pairs, mlps.down.inputs, dtype=x.dtype, device=x.device)
    _grouped(x, mlps.gate_up, found, acted, _Call(pairs, top_k, rounded, is_gated=True))
    outputs = torch.empty(pairs, hidden, dtype=torch.float32, device=x.device)
    _grouped(acted, mlps.down, found, outputs, _Call(pairs, 1, rounded))
    y = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    columns = min(1024, triton.next_power_of_2(hidden))
    _sum[(tokens, triton.cdiv(hidden, columns))](outputs, ids, weights, y, held, hidden, TOP_K=top_k, COLUMNS=columns)
    return y


def linear(x: Tensor, w: Weight, rounded: bool = False) -> Tensor:
    """x [T, K] times one matrix [1, N, K] in any format → [T, N] in x's type: all rows are one expert's."""
    rows = x.shape[0]
    y = torch.empty(rows, w.outputs, dtype=x.dtype, device=x.device)
    block = 16 if rows <= 16 else 64
    blocks = triton.cdiv(rows, block)
    pairs = torch.arange(blocks * block, dtype=torch.int32, device=x.device)
    found = Aligned(pairs, torch.zeros(blocks, dtype=torch.int32, device=x.device), block)
    _grouped(x, w, found, y, _Call(rows, 1, rounded))
    return y


def _rows_of_a_block(pairs: int, held: int) -> int:
    """Few rows an expert: narrow blocks, since padding is computed too; many: blocks that reuse a weight they read."""
    return 16 if pairs <= 16 * held else 64


def _grouped(x: Tensor, w: Weight, found: Aligned, y: Tensor, call: _Call) -> None:
    """Launch one grouped product."""
    rows = eight(x, w.group) if call.is_rounded else Eight(x, x)
    scale = w.values if w.scale is None else w.scale
    columns = 32 if found.block == 16 else 64
    _product[(found.experts.numel(), triton.cdiv(y.shape[1], columns))](
        rows.values, rows.scale, w.values, scale, y, found.pairs, found.experts, call.pairs, call.top_k, y.shape[1],
        w.inputs, w.values[0].numel(), scale[0].numel(), FORMAT=w.format, GROUP=w.group or 1, ROWS=found.block,
        COLUMNS=columns, DEPTH=w.group if w.format == "fp8" else _DEPTH, EIGHT=call.is_rounded, GATED=call.is_gated,
    )  # fmt: skip
