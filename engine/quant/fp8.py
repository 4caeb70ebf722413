"""FP8 checkpoints: a float32 scale for every block of float8 values, partial blocks at the edges included."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_shape(rows: int, columns: int, block: tuple[int, int]) -> tuple[int, int]:
    """Shape of weight_scale_inv: one scale per started block."""
    return -(-rows // block[0]), -(-columns // block[1])


def dequantise(weight: Tensor, scale_inv: Tensor, block: tuple[int, int]) -> Tensor:
    """float8 [rows, columns] × scale_inv [⌈rows/block⌉, ⌈columns/block⌉] → float32 [rows, columns]."""
    rows = weight.shape[0]
    values = weight.to(torch.float32)
    scales = scale_inv.to(torch.float32).repeat_interleave(block[0], dim=0)[:rows]
    # one block column at a time: the expanded scales would take as much memory as the weight itself
    for index in range(scales.shape[1]):
        values[:, index * block[1] : (index + 1) * block[1]] *= scales[:, index : index + 1]
    return values
