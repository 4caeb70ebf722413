"""RMS norm with the residual sum in the same pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(x_ptr, added_ptr, weight_ptr, y_ptr, width, stride, eps, ADDS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    inside = at < width
    x = tl.load(x_ptr + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        x += tl.load(added_ptr + row * width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_ptr + row * stride + at, x.to(x_ptr.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x) / width + eps)
    y = x * scale * tl.load(weight_ptr + at, mask=inside, other=0.0)
    tl.store(y_ptr + row * width + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, added: Tensor | None = None) -> Tensor:
    """x [T, n] (rows may be strided) plus `added` [T, n], which is written back to x → its norm [T, n] as `dtype`."""
    rows, width = x.shape
    y = torch.empty(rows, width, dtype=dtype, device=x.device)
    if rows:
        _norm[(rows,)](
            x, x if added is None else added, weight, y, width, x.stride(0), eps,
            ADDS=added is not None, WIDTH=triton.next_power_of_2(width),
        )  # fmt: skip
    return y
