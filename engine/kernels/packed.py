"""Weight matrices laid out so that one row's product never depends on the rows beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WIDTH = 16  # outputs are padded to a multiple of this: remainders take other code paths with other roundings
DEPTH = 256  # longest sum of one product: longer ones are cut, since threads may split them anywhere (at 512 they do)


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix y = x · Wᵀ of `outputs` × `inputs`, transposed, cut along the inputs and padded with zeros."""

    chunks: tuple[Tensor, ...]  # each [≤ DEPTH, width], contiguous
    inputs: int
    outputs: int
    width: int  # outputs rounded up to WIDTH

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored values; the arithmetic is float32 either way."""
        return self.chunks[0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(chunk.numel() * chunk.element_size() for chunk in self.chunks)


def padded(size: int) -> int:
    """`size` rounded up to WIDTH."""
    return -(-size // WIDTH) * WIDTH


def pack(weight: Tensor, dtype: torch.dtype = torch.float32, inputs: int = 0) -> Packed:
    """Pack `weight` [outputs, columns]; `inputs` ≥ columns adds zero columns for padded inputs."""
    outputs, columns = weight.shape
    inputs = inputs or columns
    chunks: list[Tensor] = []
    for start in range(0, inputs, DEPTH):
        stop = min(start + DEPTH, inputs)
        chunk = torch.zeros(stop - start, padded(outputs), dtype=dtype)
        chunk[: max(0, min(stop, columns) - start), :outputs] = weight[:, start : min(stop, columns)].t()
        chunks.append(chunk)
    return Packed(tuple(chunks), inputs, outputs, padded(outputs))


@dataclass(frozen=True, slots=True)
class Mlp:
    """SwiGLU: down(silu(gate(x)) · up(x)); gate and up are one product, each padded to the same width."""

    gate_up: Packed
    down: Packed


def pack_mlp(gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype = torch.float32) -> Mlp:
    """Pack gate and up [inner, hidden] and down [hidden, inner]."""
    inner = padded(gate.shape[0])
    both = gate.new_zeros(2 * inner, gate.shape[1])
    both[: gate.shape[0]] = gate
    both[inner : inner + up.shape[0]] = up
    return Mlp(pack(both, dtype), pack(down, dtype, inputs=inner))
