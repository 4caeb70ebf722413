"""Four-bit weights: one scale for every group of neighbouring inputs of an output channel.

Packing: [N/64][K/4][2][64] bytes, N padded to 64. Byte 4c + i of half h holds value 4k + i of channel 32h + c in its
low and of channel 32h + 16 + c in its high half-byte, as 0 … 15 with zero point 8. Scales are bfloat16,
[N/64][K/group][64].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.kernels.cpu.matrix import BLOCK, INT4, Matrix
from engine.quant.int8 import quantise_rows
from engine.spec.matrices import group_of
from engine.spec.policy import GROUPS

_ZERO = 8


@dataclass(frozen=True, slots=True)
class Quantised:
    """w ≈ (q - 8) · scale of the group."""

    q: Tensor  # uint8 [experts, outputs, inputs] in 0 … 15
    scale: Tensor  # bfloat16 [experts, outputs, inputs / group]
    group: int


def quantise(weight: Tensor, group: int = 0) -> Quantised:
    """From [outputs, inputs] or [experts, outputs, inputs]; group 0 is the largest that divides.

    The scale of a group is the extreme value / -8, whose sign puts the extreme on the far end of the range.
    """
    w = weight.to(torch.float32)
    w = w[None] if w.dim() == 2 else w
    group = group or group_of(w.shape[-1])
    if not group or w.shape[-1] % group:
        raise ValueError(f"int4 needs a number of inputs divisible by {group or GROUPS[-1]}, not {w.shape[-1]}")
    parts = w.unflatten(-1, (-1, group))
    extreme = parts.gather(-1, parts.abs().argmax(-1, keepdim=True))
    scale = (extreme / -_ZERO).to(torch.bfloat16)
    step = torch.where(scale == 0, torch.ones_like(scale), scale).to(torch.float32)
    q = (torch.round(parts / step) + _ZERO).clamp_(0, 15).to(torch.uint8)
    return Quantised(q.flatten(-2), scale[..., 0], group)


def dequantise(w: Quantised) -> Tensor:
    """float32 [experts, outputs, inputs]."""
    parts = (w.q.to(torch.float32) - _ZERO).unflatten(-1, (-1, w.group))
    return (parts * w.scale.to(torch.float32)[..., None]).flatten(-2)


def pack(w: Quantised) -> Matrix:
    """Into the kernels' layout."""
    experts, outputs, inputs = w.q.shape
    q = pad(w.q, (0, 0, 0, -outputs % BLOCK))
    parts = q.view(experts, -1, 2, 2, BLOCK // 4, inputs // 4, 4)  # …, half, low or high, channel, k/4, 4
    packed = (parts[:, :, :, 0] | (parts[:, :, :, 1] << 4)).permute(0, 1, 4, 2, 3, 5).contiguous()
    scale = pad(w.scale, (0, 0, 0, -outputs % BLOCK)).view(experts, -1, BLOCK, inputs // w.group)
    return Matrix(INT4, (experts, outputs, inputs), (packed, scale.transpose(2, 3).contiguous()), w.group)


def unpack(matrix: Matrix) -> Quantised:
    """The exact inverse of `pack`."""
    packed, scale = matrix.tensors
    parts = packed.permute(0, 1, 3, 4, 2, 5)
    q = torch.stack((parts & 15, parts >> 4), dim=3).reshape(matrix.experts, -1, matrix.inputs)
    scales = scale.transpose(2, 3).reshape(matrix.experts, -1, matrix.inputs // matrix.group)
    return Quantised(q[:, : matrix.outputs].contiguous(), scales[:, : matrix.outputs].contiguous(), matrix.group)


def linear(x: Tensor, w: Quantised) -> Tensor:
    """The slow reference, one matrix: exact sums in each group, scaled sums left to right → float32 [M, outputs]."""
    q, scale = quantise_rows(x)
    total = torch.zeros(x.shape[0], w.q.shape[1])
    for index in range(w.scale.shape[-1]):
        part = slice(index * w.group, (index + 1) * w.group)
        sums = q[:, part].to(torch.float64) @ (w.q[0, :, part].to(torch.float64) - _ZERO).t()
        total = total + sums.to(torch.float32) * w.scale[0, :, index].to(torch.float32)
    return total * scale
