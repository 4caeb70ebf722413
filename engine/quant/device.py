"""Weights of every number format as the GPU kernels want them: the same numbers in plain rows."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.triton.weights import Weight
from engine.quant import int4, int8


def plain(weight: Tensor, dtype: torch.dtype) -> Weight:
    """From [N, K] or [E, N, K]."""
    values = (weight if weight.dim() == 3 else weight[None]).to(dtype).contiguous()
    return Weight("plain", values, None, values.shape[2])


def from_int8(w: int8.Quantised) -> Weight:
    """The same whole numbers, as they are."""
    return Weight("int8", w.q.contiguous(), w.scale.contiguous(), w.q.shape[2])


def from_int4(w: int4.Quantised) -> Weight:
    """The same whole numbers, two to a byte."""
    low, high = w.q.unflatten(-1, (-1, 2, w.group // 2)).unbind(-2)
    return Weight(
        "int4", (low | (high << 4)).flatten(-2).contiguous(), w.scale.float().contiguous(), w.q.shape[2], w.group
    )


def from_fp8(values: Tensor, scale_inv: Tensor, block: int) -> Weight:
    """A checkpoint's FP8 blocks as they are: values [E, N, K] or [N, K]."""
    three = values if values.dim() == 3 else values[None]
    scale = scale_inv if scale_inv.dim() == 3 else scale_inv[None]
    return Weight("fp8", three.contiguous(), scale.float().contiguous(), three.shape[2], block)
