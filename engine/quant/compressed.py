"""Weights as compressed-tensors checkpoints hold them: whole numbers, some packed into words, beside their scales."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine.quant import int4, int8
from engine.spec.policy import GROUPS

PACKED: Final = "_packed"  # X.weight_packed int32 [outputs, words] stands for X.weight, with
SCALE: Final = "_scale"  # X.weight_scale [outputs, 1 or groups] and
SHAPE: Final = "_shape"  # X.weight_shape [2]

Quantised = int8.Quantised | int4.Quantised


def words(inputs: int, bits: int) -> int:
    """32-bit words of a row."""
    return -(-inputs * bits // 32)


def pack(values: Tensor, bits: int) -> Tensor:
    """Whole numbers [outputs, inputs], signed, → int32 [outputs, words]; the first value has the lowest bits."""
    per_word = 32 // bits
    shifted = torch.nn.functional.pad(values.to(torch.int64) + (1 << bits - 1), (0, -values.shape[1] % per_word))
    parts = shifted.unflatten(1, (-1, per_word)) << (torch.arange(per_word) * bits)
    return parts.sum(-1).to(torch.int32)  # sums above 2**31 wrap around, as they must


def unpack(packed: Tensor, bits: int, inputs: int) -> Tensor:
    """The exact inverse of `pack` → int8 [outputs, inputs]."""
    parts = (packed[:, :, None] >> (torch.arange(32 // bits, dtype=torch.int32) * bits)) & (1 << bits) - 1
    return (parts.flatten(1)[:, :inputs] - (1 << bits - 1)).to(torch.int8)


def dequantise(q: Tensor, scale: Tensor) -> Tensor:
    """q int8 [outputs, inputs] × scale [outputs, 1 or groups] → float32."""
    group = q.shape[1] // scale.shape[1]
    return (q.float().unflatten(1, (-1, group)) * scale.float()[:, :, None]).flatten(1)


def as_held(q: Tensor, scale: Tensor, bits: int) -> Quantised | None:
    """The same numbers in a format that the engine computes with; None where it has none for them.

    Scales of int4 groups are rounded to bfloat16, 0.2 % at most, if they are not yet.
    """
    groups = scale.shape[1]
    if groups == 1 and bits == 8:
        return int8.Quantised(q[None], scale.float().view(1, -1))
    if bits == 4 and q.shape[1] // groups in GROUPS:
        return int4.Quantised((q + 8).to(torch.uint8)[None], scale.to(torch.bfloat16)[None], q.shape[1] // groups)
    return None


def from_int8(w: int8.Quantised) -> tuple[Tensor, Tensor]:
    """One matrix → weight int8 [outputs, inputs], weight_scale float32 [outputs, 1]."""
    return w.q[0], w.scale[0, :, None].contiguous()


def from_int4(w: int4.Quantised) -> tuple[Tensor, Tensor]:
    """One matrix → weight_packed int32, weight_scale bfloat16 [outputs, groups]."""
    return pack(w.q[0].to(torch.int8) - 8, 4), w.scale[0].contiguous()
