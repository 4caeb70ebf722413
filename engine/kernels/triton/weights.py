"""How matrices lie in a GPU's memory, in each number format: plain rows that a tile of threads reads in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Format = Literal["plain", "int8", "int4", "fp8"]
_ZERO = 8


@dataclass(frozen=True, slots=True)
class Weight:
    """Matrices y = x · Wᵀ of `experts` × `outputs` × `inputs` (one expert: a plain matrix).

    plain: values [E, N, K]. int8: values [E, N, K], scale float32 [E, N]. int4: bytes [E, N, K / 2], byte j of a
    group holding value j in its low and value j + group / 2 in its high half, zero point 8, scale float32
    [E, N, K / group]. fp8: float8_e4m3fn [E, N, K], scale float32 [E, ⌈N / block⌉, ⌈K / block⌉].
    """

    format: Format
    values: Tensor
    scale: Tensor | None
    inputs: int
    group: int = 0  # int4: values of a scale; fp8: side of a block

    @property
    def experts(self) -> int:
        """Matrices held."""
        return self.values.shape[0]

    @property
    def outputs(self) -> int:
        """Rows of a matrix."""
        return self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        parts = (self.values,) if self.scale is None else (self.values, self.scale)
        return sum(part.numel() * part.element_size() for part in parts)


def dequantise(w: Weight) -> Tensor:
    """float32 [E, N, K]: the slow reference of what the kernels multiply with."""
    if w.scale is None:
        return w.values.float()
    if w.format == "int8":
        return w.values.float() * w.scale[..., None]
    if w.format == "int4":
        parts = w.values.unflatten(-1, (-1, w.group // 2))
        q = torch.cat((parts & 15, parts >> 4), -1).float() - _ZERO
        return (q * w.scale[..., None]).flatten(-2)
    wide = w.scale.repeat_interleave(w.group, 1)[:, : w.outputs].repeat_interleave(w.group, 2)[:, :, : w.inputs]
    return w.values.float() * wide
