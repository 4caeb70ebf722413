"""The ops a model is made of: one table, so that another kernel set can take the place of the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.kernels.packed import Mlp, Packed

POSITIONS = 64  # cache positions of one attention tile, counted from position 0 of the sequence
QUERIES = 48  # prompt rows of one attention tile: a multiple of every block of rows that math libraries use


@dataclass(frozen=True, slots=True)
class PromptKeys:
    """Cached latents of one sequence, and how they become keys and values."""

    latents: Tensor  # float32 [tiles × POSITIONS, kv_rank + rope_dim], zeros past the end
    expand: Packed  # kv_rank → heads × (nope_dim + value_dim)
    kv_rank: int
    nope_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Ops:
    """Every op: float32 in and out, exact per row, sums in a fixed order. T rows are a multiple of the tile."""

    name: str  # part of the numerics id
    linear_rows: Callable[[Tensor, Packed, int], Tensor]  # x [T, inputs], w, tile → [T, width]
    mlp_rows: Callable[[Tensor, Mlp, int], Tensor]  # x [T, hidden], w, tile → [T, hidden]
    # x [T, hidden], ids int64 [N, k], weights [N, k], experts, tile → Σ over k in order [N, hidden]
    moe: Callable[[Tensor, Tensor, Tensor, Sequence[Mlp], int], Tensor]
    # x [P, hidden], ids int64 [P], experts, tile → [P, hidden]: the summands of `moe`, unweighted
    expert_rows: Callable[[Tensor, Tensor, Sequence[Mlp], int], Tensor]
    top_k_sum: Callable[[Tensor, Tensor], Tensor]  # outputs [N, k, hidden], weights [N, k] → [N, hidden], in order of k
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]  # x [T, n], weight [n], eps → [T, n]
    rope: Callable[[Tensor, Tensor, Tensor], Tensor]  # x [T, …, r] interleaved, cos [T, r], ±sin [T, r] → [T, …, r]
    heads_rows: Callable[[Tensor, Tensor, int], Tensor]  # x [T, heads, n], w [heads, n, m], tile → [T, heads, m]
    # queries [n, heads, nope + rope] (scaled), first position, keys → [n, heads × value_dim]
    attend_prompt: Callable[[Tensor, int, PromptKeys], Tensor]
    # queries [n, heads, kv_rank + rope] (scaled), keys [n or 1, tiles, POSITIONS, same], hidden bool [n, 1,
    # tiles × POSITIONS] (True: not to be seen), kv_rank → [n, heads, kv_rank]
    attend_generated: Callable[[Tensor, Tensor, Tensor, int], Tensor]
