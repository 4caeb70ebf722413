"""Rows as float8 with a scale for every block of neighbouring values: what DeepSeek's FP8 checkpoints expect."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST = tl.constexpr(448.0)  # of float8_e4m3fn
_LEAST = tl.constexpr(1e-4)  # a block's largest value is taken to be at least this: zeros have a scale too


@dataclass(frozen=True, slots=True)
class Eight:
    """x ≈ values · scale of the block."""

    values: Tensor  # float8_e4m3fn [T, K]
    scale: Tensor  # float32 [T, ⌈K / block⌉]


@triton.jit
def _round(x_ptr, values_ptr, scale_ptr, width, BLOCK: tl.constexpr, POWERS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(x_ptr + row * width + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x)), _LEAST) / _LARGEST
    if POWERS:
        scale = tl.exp2(tl.ceil(tl.log2(scale)))
    tl.store(values_ptr + row * width + at, (x / scale).to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + row * tl.num_programs(1) + tl.program_id(1), scale)


def eight(x: Tensor, block: int, powers: bool = False) -> Eight:
    """x [T, K] rounded block by block. powers: scales are powers of two, as V3.1's `ue8m0` checkpoints want."""
    rows, width = x.shape
    blocks = triton.cdiv(width, block)
    values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, blocks, dtype=torch.float32, device=x.device)
    if rows:
        _round[(rows, blocks)](x, values, scale, width, BLOCK=block, POWERS=powers)
    return Eight(values, scale)
