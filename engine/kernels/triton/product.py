"""The inner loop that all products share: a tile of rows times a tile of weights in any number format."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def times(
    x_ptrs, x_scale_ptrs, row_mask, w_ptr, scale_ptr, columns, wanted, inputs,
    FORMAT: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EIGHT: tl.constexpr,
):  # fmt: skip
    """Float32 [ROWS, COLUMNS]: Σ over k of x[row, k] · w[column, k] with the weights' scales.

    `x_ptrs` [ROWS, 1] point at k = 0 of each row, `columns` [COLUMNS] are outputs of one matrix at `w_ptr`, of
    which those `wanted` exist. DEPTH is the block for fp8. EIGHT: rows are float8 with a scale per block of k.
    """
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    if FORMAT == "int4":
        half = tl.arange(0, GROUP // 2)
        groups = inputs // GROUP
        for g in range(groups):
            packed = tl.load(
                w_ptr + columns[None, :] * (inputs // 2) + g * (GROUP // 2) + half[:, None],
                mask=wanted[None, :],
                other=0,
            )
            step = tl.load(scale_ptr + columns * groups + g, mask=wanted, other=0.0)
            low_x = tl.load(x_ptrs + g * GROUP + half[None, :], mask=row_mask, other=0.0)
            high_x = tl.load(x_ptrs + g * GROUP + GROUP // 2 + half[None, :], mask=row_mask, other=0.0)
            low = ((packed & 15).to(tl.int8) - 8).to(low_x.dtype)
            high = ((packed >> 4).to(tl.int8) - 8).to(low_x.dtype)
            part = tl.dot(low_x, low, input_precision="ieee")
            part = tl.dot(high_x, high, part, input_precision="ieee")
            total += part * step[None, :]
    else:
        depth = tl.arange(0, DEPTH)
        for start in range(0, inputs, DEPTH):
            k = start + depth
            inside = k < inputs
            x = tl.load(x_ptrs + k[None, :], mask=row_mask & inside[None, :], other=0.0)
            w = tl.load(
                w_ptr + columns[None, :] * inputs + k[:, None], mask=wanted[None, :] & inside[:, None], other=0.0
            )
            if FORMAT == "fp8":
                blocks = tl.cdiv(inputs, GROUP)
                at = (columns // GROUP) * blocks + start // GROUP
                step = tl.load(scale_ptr + at, mask=wanted, other=0.0)
                if EIGHT:
                    of_row = tl.load(x_scale_ptrs + start // GROUP, mask=row_mask, other=0.0)
                    total += tl.dot(x, w) * of_row * step[None, :]
                else:
                    total += tl.dot(x, w.to(x.dtype), input_precision="ieee") * step[None, :]
            else:
                total = tl.dot(x, w.to(x.dtype), total, input_precision="ieee")
        if FORMAT == "int8":
            total *= tl.load(scale_ptr + columns, mask=wanted, other=0.0)[None, :]
    return total
