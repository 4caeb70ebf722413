"""Attention over cached latents in tiles at absolute positions, left to right: the same bits however rows are cut."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.linear import bounded_bmm, linear_rows
from engine.kernels.table import POSITIONS, QUERIES, PromptKeys

_NEVER = float("-inf")


def attend_prompt(queries: Tensor, position: int, keys: PromptKeys) -> Tensor:
    """Expanded form with an online softmax: row i sees positions 0 … position + i.

    queries [n, heads, nope + rope], already scaled → [n, heads × value_dim].
    """
    count, heads, width = queries.shape
    tiles = -(-count // QUERIES)
    rows = queries.new_zeros(tiles * QUERIES, heads, width)
    rows[:count] = queries
    q = rows.view(tiles, QUERIES, heads, width).transpose(1, 2).contiguous()
    own = torch.arange(position, position + tiles * QUERIES).view(tiles, 1, QUERIES, 1)
    state = _Softmax(tiles, heads, keys.value_dim)
    for start in range(0, position + count, POSITIONS):
        first = max(0, start - position) // QUERIES  # row tiles before it end before this tile begins
        k, v = _expand(keys, start, heads)
        scores = q.new_empty(tiles - first, heads, QUERIES, POSITIONS)
        for out, part in zip(scores, q[first:], strict=True):
            out.copy_(bounded_bmm(part, k))
        if start + POSITIONS > position + first * QUERIES:
            scores.masked_fill_(torch.arange(start, start + POSITIONS) > own[first:], _NEVER)
        state.add(first, scores, v)
    result = state.result().transpose(1, 2).reshape(tiles * QUERIES, heads * keys.value_dim)
    return result[:count]


def _expand(keys: PromptKeys, start: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys [heads, nope + rope, POSITIONS] and values [heads, POSITIONS, value] of one tile of the cache."""
    latents = keys.latents[start : start + POSITIONS]
    rank, nope = keys.kv_rank, keys.nope_dim
    both = linear_rows(latents[:, :rank], keys.expand, POSITIONS)
    split = both[:, : keys.expand.outputs].view(POSITIONS, heads, nope + keys.value_dim)
    k = latents.new_empty(heads, POSITIONS, nope + latents.shape[1] - rank)
    k[:, :, :nope] = split[:, :, :nope].transpose(0, 1)
    k[:, :, nope:] = latents[:, rank:]
    return k.transpose(1, 2), split[:, :, nope:].transpose(0, 1)


class _Softmax:
    """Running maximum, sum and weighted values of every row; a tile that a row does not see changes no bit of it."""

    def __init__(self, tiles: int, heads: int, value_dim: int) -> None:
        self._highest = torch.full((tiles, heads, QUERIES, 1), _NEVER)
        self._sum = torch.zeros(tiles, heads, QUERIES, 1)
        self._values = torch.zeros(tiles, heads, QUERIES, value_dim)

    def add(self, first: int, scores: Tensor, values: Tensor) -> None:
        """Take in scores [tiles - first, heads, QUERIES, POSITIONS] and values [heads, POSITIONS, value]."""
        before = self._highest[first:]
        highest = torch.maximum(before, scores.amax(-1, keepdim=True))
        shrink = torch.exp(before - highest)
        weights = torch.exp_(scores.sub_(highest))
        before.copy_(highest)
        self._sum[first:].mul_(shrink).add_(weights.sum(-1, keepdim=True))
        added = torch.stack([torch.bmm(part, values) for part in weights])
        self._values[first:].mul_(shrink).add_(added)

    def result(self) -> Tensor:
        """[tiles, heads, QUERIES, value]."""
        return self._values / self._sum


def attend_generated(queries: Tensor, keys: Tensor, hidden: Tensor, rank: int) -> Tensor:
    """Absorbed form: every head of a row against the latents themselves.

    queries [n, heads, rank + rope] (scaled), keys [n or 1, tiles, POSITIONS, rank + rope], hidden [n, 1, tiles ×
    POSITIONS] → [n, heads, rank]. A product has one row's heads, so it has one shape whatever n is.
    """
    count, heads, _ = queries.shape
    tiles = keys.shape[1]
    scores = queries.new_empty(tiles, count, heads, POSITIONS)
    parts = [keys[:, tile].expand(count, -1, -1) for tile in range(tiles)]
    for out, part in zip(scores, parts, strict=True):
        out.copy_(bounded_bmm(queries, part.transpose(1, 2)))
    scores.masked_fill_(hidden.view(count, 1, tiles, POSITIONS).permute(2, 0, 1, 3), _NEVER)
    weights = torch.exp_(scores.sub_(scores.amax(-1).amax(0)[:, :, None]))
    sums = weights.sum(-1)
    total, values = sums[0], torch.bmm(weights[0], parts[0][:, :, :rank])
    for tile in range(1, tiles):
        total = total + sums[tile]
        values.baddbmm_(weights[tile], parts[tile][:, :, :rank])
    return values / total[:, :, None]
