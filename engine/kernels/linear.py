"""Matrix products whose rows are strangers: fixed tiles, padded widths, sums of bounded length in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.packed import DEPTH, Packed

COLUMNS = 512  # bfloat16 weights are widened this many columns at a time: a block stays in the core's own cache


def linear_rows(x: Tensor, w: Packed, tile: int) -> Tensor:
    """x [T, inputs] · w → float32 [T, width], T a multiple of `tile`."""
    if w.dtype != torch.float32:
        return _widened(x, w, tile)
    first, rest = w.chunks[0], w.chunks[1:]
    if not rest and x.shape[0] == tile:
        return torch.mm(x, first)
    y = x.new_empty(x.shape[0], w.width)
    depth = first.shape[0]
    for rows, out in zip(cut(x, tile), cut(y, tile), strict=True):
        torch.mm(rows[:, :depth], first, out=out)
        for index, chunk in enumerate(rest, start=1):
            out.addmm_(rows[:, index * depth : index * depth + chunk.shape[0]], chunk)
    return y


def cut(x: Tensor, tile: int) -> tuple[Tensor, ...]:
    """Views of `tile` rows each."""
    return torch.split_with_sizes(x, [tile] * (x.shape[0] // tile))  # half the overhead of Tensor.split


def _widened(x: Tensor, w: Packed, tile: int) -> Tensor:
    """The same arithmetic for weights held in bfloat16: widened block by block, nothing else is rounded."""
    y = x.new_zeros(x.shape[0], w.width)
    rows, outs = cut(x, tile), cut(y, tile)
    depth = w.chunks[0].shape[0]
    for index, chunk in enumerate(w.chunks):
        span = slice(index * depth, index * depth + chunk.shape[0])
        for left in range(0, w.width, COLUMNS):
            block = chunk[:, left : left + COLUMNS].float()
            for row, out in zip(rows, outs, strict=True):
                out[:, left : left + COLUMNS].addmm_(row[:, span], block)
    return y


def bounded_bmm(a: Tensor, b: Tensor) -> Tensor:
    """a [n, rows, k] · b [n, k, columns], the sum over k cut as in `linear_rows`."""
    y = torch.bmm(a[:, :, :DEPTH], b[:, :DEPTH])
    for start in range(DEPTH, a.shape[2], DEPTH):
        y.baddbmm_(a[:, :, start : start + DEPTH], b[:, start : start + DEPTH])
    return y
