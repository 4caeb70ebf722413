"""Reference ops in torch: slow and right, and the same bits for a row whatever surrounds it.

Three rules make them row-wise. Matrix products have a fixed number of rows (zero-padded tiles), a padded number of
columns and sums of at most 256 terms (linear.py). Sums over rows never cross a row, and those across tiles run left to
right in float32. Functions that torch computes differently at the end of a vector (silu, sigmoid) are built from exp
and exact operations, which it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.kernels.attention import attend_generated, attend_prompt
from engine.kernels.linear import bounded_bmm, cut, linear_rows
from engine.kernels.packed import Mlp
from engine.kernels.table import Ops


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(left half) · right half, row by row."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate / (torch.exp(-gate) + 1.0) * up


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ) from exact operations and exp only."""
    return (torch.exp(-x) + 1.0).reciprocal_()


def mlp_rows(x: Tensor, w: Mlp, tile: int) -> Tensor:
    """SwiGLU of x [T, hidden] → [T, hidden]."""
    return linear_rows(silu_mul(linear_rows(x, w.gate_up, tile)), w.down, tile)[:, : w.down.outputs]


def moe(x: Tensor, ids: Tensor, weights: Tensor, experts: Sequence[Mlp], tile: int) -> Tensor:
    """Σ over the chosen experts, in top-k order, of weight · expert(x)."""
    tokens, top_k = ids.shape
    outputs = expert_rows(x[:tokens].repeat_interleave(top_k, dim=0), ids.reshape(-1), experts, tile)
    return top_k_sum(outputs.view(tokens, top_k, -1), weights)


def top_k_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Σ over k, in order, of weights [N, k] · outputs [N, k, hidden]."""
    chosen = outputs * weights[:, :, None]
    total = chosen[:, 0]
    for choice in range(1, chosen.shape[1]):
        total = total + chosen[:, choice]
    return total


def expert_rows(x: Tensor, ids: Tensor, experts: Sequence[Mlp], tile: int) -> Tensor:
    """Row by row experts[ids[i]](x[i]): rows of one expert share its tiles."""
    if not ids.numel():
        return x
    flat = ids.numpy()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=len(experts))
    padded = -(-counts // tile) * tile
    offset = np.cumsum(padded) - padded - (np.cumsum(counts) - counts)
    place = np.empty(flat.size, dtype=np.int64)  # where each row lies among the padded ones
    place[order] = np.arange(flat.size) + offset[flat[order]]
    at = torch.from_numpy(place)
    rows = x.new_zeros(int(padded.sum()), x.shape[1])
    rows[at] = x
    active = np.flatnonzero(counts).tolist()
    spans = padded[active].tolist()
    inner = [linear_rows(part, experts[e].gate_up, tile) for e, part in zip(active, rows.split(spans), strict=True)]
    acted = silu_mul(torch.cat(inner))
    outer = [linear_rows(part, experts[e].down, tile) for e, part in zip(active, acted.split(spans), strict=True)]
    return torch.cat(outer)[at, : x.shape[1]]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, row by row."""
    scale = (x * x).mean(-1, keepdim=True).add_(eps).sqrt_().reciprocal_()
    return x * scale * weight


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x [T, …, r]; `sin` has its sign set per element: −, +, −, + …"""
    shape = (x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos.view(shape) + swapped * sin.view(shape)


def heads_rows(x: Tensor, w: Tensor, tile: int) -> Tensor:
    """Each head's own product: x [T, heads, n] with w [heads, n, m] → [T, heads, m]."""
    y = x.new_empty(x.shape[0], w.shape[0], w.shape[2])
    for rows, out in zip(cut(x, tile), cut(y, tile), strict=True):
        out.copy_(bounded_bmm(rows.transpose(0, 1), w).transpose(0, 1))
    return y


REFERENCE = Ops(
    name="reference-1",
    linear_rows=linear_rows,
    mlp_rows=mlp_rows,
    moe=moe,
    expert_rows=expert_rows,
    top_k_sum=top_k_sum,
    rms_norm=rms_norm,
    rope=rope,
    heads_rows=heads_rows,
    attend_prompt=attend_prompt,
    attend_generated=attend_generated,
)
