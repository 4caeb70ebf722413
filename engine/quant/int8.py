"""Eight-bit weights: one scale per output channel, packed so that the kernels read memory from front to back.

Packing: [N/64][K/4][64][4], N padded to 64 and K to 4 with zeros; four neighbouring bytes are four values of k of one
channel. Activations are quantised per row while the model runs: q = round(x · 127/max|x|), ties to even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.kernels.cpu.matrix import BLOCK, INT8, Matrix

_LARGEST = 127.0


@dataclass(frozen=True, slots=True)
class Quantised:
    """w ≈ q · scale[…, None]."""

    q: Tensor  # int8 [experts, outputs, inputs] in -127 … 127
    scale: Tensor  # float32 [experts, outputs]


def quantise(weight: Tensor) -> Quantised:
    """From [outputs, inputs] or [experts, outputs, inputs] of any float type."""
    w = weight.to(torch.float32)
    w = w[None] if w.dim() == 2 else w
    scale = w.abs().amax(-1) / _LARGEST
    step = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Quantised(torch.round(w / step[..., None]).clamp_(-_LARGEST, _LARGEST).to(torch.int8), scale)


def joined(parts: Sequence[Quantised]) -> Quantised:
    """Matrices of the same inputs, one below the other."""
    return Quantised(torch.cat([part.q for part in parts], 1), torch.cat([part.scale for part in parts], 1))


def dequantise(w: Quantised) -> Tensor:
    """float32 [experts, outputs, inputs]."""
    return w.q.to(torch.float32) * w.scale[..., None]


def pack(w: Quantised) -> Matrix:
    """Into the kernels' layout, with 128 · Σ_k q beside it (what unsigned activations add too much)."""
    experts, outputs, inputs = w.q.shape
    q = pad(w.q, (0, -inputs % 4, 0, -outputs % BLOCK))
    comp = q.sum(-1, dtype=torch.int32) * 128
    q = q.view(experts, -1, BLOCK, q.shape[-1] // 4, 4).transpose(2, 3).contiguous()
    return Matrix(INT8, (experts, outputs, inputs), (q, pad(w.scale, (0, -outputs % BLOCK)).contiguous(), comp))


def unpack(matrix: Matrix) -> Quantised:
    """The exact inverse of `pack`."""
    q, scale, _ = matrix.tensors
    rows = q.transpose(2, 3).reshape(matrix.experts, -1, 4 * q.shape[2])
    return Quantised(rows[:, : matrix.outputs, : matrix.inputs].contiguous(), scale[:, : matrix.outputs].contiguous())


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x float32 [M, K] → whole numbers q [M, K] in float32, scale [M, 1]; a row with inf or NaN has scale NaN."""
    largest = x.abs().amax(-1, keepdim=True)
    sound = torch.isfinite(largest) & (largest >= 1e-30)
    q = torch.round(x * (_LARGEST / torch.where(sound, largest, torch.ones_like(largest))))
    scale = torch.where(sound, largest / _LARGEST, torch.where(torch.isfinite(largest), 0.0, math.nan))
    return torch.where(sound, q, torch.zeros_like(q)), scale


def linear(x: Tensor, w: Quantised) -> Tensor:
    """The slow reference, one matrix: exact sums of whole numbers, then the two scales → float32 [M, outputs]."""
    q, scale = quantise_rows(x)
    sums = q.to(torch.float64) @ w.q[0].to(torch.float64).t()
    return sums.to(torch.float32) * scale * w.scale[0]
