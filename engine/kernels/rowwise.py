"""Finds the smallest tile whose rows keep their bits wherever they stand and whatever stands beside them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels.linear import linear_rows
from engine.kernels.packed import Packed

TILES = (8, 12, 24, 48)  # libraries take 4, 6, 8 or 12 rows at a time and treat what is left over differently


def narrowest_tile(matrices: Mapping[tuple[int, int], Packed]) -> int:
    """The first of TILES that is row-wise for every matrix; the last where none is (the self-check then says so)."""
    for tile in TILES[:-1]:
        if all(is_rowwise(matrix, tile) for matrix in matrices.values()):
            return tile
    return TILES[-1]


def is_rowwise(matrix: Packed, tile: int) -> bool:
    """Whether one row gives the same bits at each place of a tile, alone among zeros and among other rows."""
    generator = torch.Generator().manual_seed(tile)
    row = torch.randn(matrix.inputs, generator=generator)
    expected: Tensor | None = None
    for place in range(tile):
        for crowd in (torch.zeros(tile, matrix.inputs), torch.randn(tile, matrix.inputs, generator=generator)):
            crowd[place] = row
            result = linear_rows(crowd, matrix, tile)[place]
            if expected is None:
                expected = result
            if not torch.equal(result, expected):
                return False
    return True
