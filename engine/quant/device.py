"""Weights of every number format as the GPU kernels want them: the same numbers in plain rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from engine.kernels.triton.weights import Weight, dequantise
from engine.quant import int4, int8
from engine.spec.matrices import group_of
from engine.spec.policy import Format


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


def convert(weight: Tensor, wanted: Format, dtype: torch.dtype, device: torch.device) -> Weight:
    """[outputs, inputs] in a policy's format on a device; int4 falls back to int8 where no group divides the inputs."""
    moved = weight.to(device)
    if wanted == "int4" and group_of(weight.shape[-1]):
        return from_int4(int4.quantise(moved))
    return plain(moved.clone(), dtype) if wanted == "none" else from_int8(int8.quantise(moved))


def stacked(parts: list[Weight]) -> Weight:
    """Weights of one shape and format as the experts of one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    scale = None if first.scale is None else torch.cat([part.scale for part in parts if part.scale is not None])
    return replace(first, values=torch.cat([part.values for part in parts]), scale=scale)


def values_of(w: Weight) -> Tensor:
    """float32 [outputs, inputs] of one matrix: the values that its format holds."""
    return dequantise(w)[0]
