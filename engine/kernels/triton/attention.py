"""Attention of generated rows over the paged latent cache: splits computed side by side, then joined in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 16  # heads of one program: they share the latents that it reads
_TILE = 32  # cache positions of one product
_PROGRAMS = 256  # about two for each multiprocessor of a large GPU
_MOST_SPLITS = 32
_NEVER = tl.constexpr(float("-inf"))


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the cache of each row's sequence lies."""

    tables: Tensor  # int32 or int64 [T, blocks]
    lengths: Tensor  # int32 or int64 [T]: positions that a row sees, its own included; 0: a row that stands for nothing
    block_size: int


@triton.jit
def _attend(
    q_ptr, cache_ptr, tables_ptr, lengths_ptr, parts_ptr, marks_ptr, heads, rank, rope, table_stride, block_size,
    HEADS: tl.constexpr, TILE: tl.constexpr, RANK: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """One row, HEADS heads, one of equal splits of what the row sees: online softmax over its tiles, left to right."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2)
    length = tl.load(lengths_ptr + row).to(tl.int32)
    span = tl.cdiv(tl.cdiv(length, tl.num_programs(2)), TILE) * TILE
    first = split * span
    last = tl.minimum(first + span, length)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    own = head < heads
    at = tl.arange(0, RANK)
    part = tl.arange(0, ROPE)
    width = rank + rope
    base = q_ptr + (row * heads + head[:, None]) * width
    q = tl.load(base + at[None, :], mask=own[:, None] & (at < rank)[None, :], other=0.0)
    q_turned = tl.load(base + rank + part[None, :], mask=own[:, None] & (part < rope)[None, :], other=0.0)
    highest = tl.full([HEADS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([HEADS], dtype=tl.float32)
    values = tl.zeros([HEADS, RANK], dtype=tl.float32)
    for start in range(first, last, TILE):
        position = start + tl.arange(0, TILE)
        seen = position < last
        block = tl.load(tables_ptr + row * table_stride + position // block_size, mask=seen, other=0).to(tl.int64)
        place = cache_ptr + (block * block_size + position % block_size)[:, None] * width
        latents = tl.load(place + at[None, :], mask=seen[:, None] & (at < rank)[None, :], other=0.0).to(q.dtype)
        turned = tl.load(place + rank + part[None, :], mask=seen[:, None] & (part < rope)[None, :], other=0.0)
        scores = tl.dot(q, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(q_turned, tl.trans(turned.to(q.dtype)), scores, input_precision="ieee")
        scores = tl.where(seen[None, :], scores, _NEVER)
        now = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp(highest - now)
        weights = tl.exp(scores - now[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        values = tl.dot(weights.to(q.dtype), latents, values * shrink[:, None], input_precision="ieee")
        highest = now
    out = (row * heads + head) * tl.num_programs(2) + split
    safe = tl.where(total > 0.0, total, 1.0)
    tl.store(
        parts_ptr + out[:, None] * rank + at[None, :], values / safe[:, None], mask=own[:, None] & (at < rank)[None, :]
    )
    tl.store(marks_ptr + out, tl.where(total > 0.0, highest + tl.log(safe), _NEVER), mask=own)


@triton.jit
def _join(parts_ptr, marks_ptr, y_ptr, splits, rank, RANK: tl.constexpr):
    """One row and head: parts weighted by their softmax sums (as logarithms), left to right."""
    place = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, RANK)
    inside = at < rank
    highest = tl.load(marks_ptr + place * splits)
    for split in range(1, splits):
        highest = tl.maximum(highest, tl.load(marks_ptr + place * splits + split))
    total = 0.0
    values = tl.zeros([RANK], dtype=tl.float32)
    for split in range(splits):
        mark = tl.load(marks_ptr + place * splits + split)
        if mark > _NEVER:
            weight = tl.exp(mark - highest)
            total += weight
            values += weight * tl.load(parts_ptr + (place * splits + split) * rank + at, mask=inside, other=0.0)
    y = values / tl.where(total > 0.0, total, 1.0)
    tl.store(y_ptr + place * rank + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def attend(q: Tensor, cache: Tensor, pages: Pages, kv_rank: int) -> Tensor:
    """q [T, heads, kv_rank + rope] (absorbed, turned, scaled), cache [slots, same] → [T, heads, kv_rank] in q's type.

    The number of splits depends on shapes alone, so that a captured graph stays right for other lengths.
    """
    rows, heads, width = q.shape
    groups = triton.cdiv(heads, _HEADS)
    splits = max(1, min(_MOST_SPLITS, _PROGRAMS // (rows * groups)))
    parts = torch.empty(rows, heads, splits, kv_rank, dtype=torch.float32, device=q.device)
    marks = torch.empty(rows, heads, splits, dtype=torch.float32, device=q.device)
    rank = triton.next_power_of_2(kv_rank)
    _attend[(rows, groups, splits)](
        q, cache, pages.tables, pages.lengths, parts, marks, heads, kv_rank, width - kv_rank, pages.tables.stride(0),
        pages.block_size, HEADS=_HEADS, TILE=_TILE, RANK=max(16, rank),
        ROPE=max(16, triton.next_power_of_2(width - kv_rank)),
    )  # fmt: skip
    y = torch.empty(rows, heads, kv_rank, dtype=q.dtype, device=q.device)
    _join[(rows * heads,)](parts, marks, y, splits, kv_rank, RANK=rank)
    return y
