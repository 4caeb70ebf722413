"""Weight matrices in the kernels' formats: tensors that stay alive, and what the kernels are told about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine.kernels.cpu import structs

F32, BF16, INT8, INT4 = range(4)
BLOCK: Final = 64  # output columns that packed weights are padded to
_PLAIN: Final = {torch.float32: F32, torch.bfloat16: BF16}


class Matrix:
    """A matrix [outputs, inputs], or a stack of them, one per expert or head; keeps its memory alive.

    F32 and BF16 hold `q` [experts, outputs, inputs] as the checkpoint has it; engine.quant packs the others.
    """

    __slots__ = ("argument", "experts", "group", "inputs", "kind", "outputs", "tensors")

    def __init__(self, kind: int, shape: tuple[int, int, int], tensors: Sequence[Tensor], group: int = 0) -> None:
        self.kind = kind
        self.experts, self.outputs, self.inputs = shape
        self.group = group
        self.tensors = tuple(tensors)  # q, then scale, then comp as far as the format has them
        if not all(tensor.is_contiguous() for tensor in self.tensors):
            raise ValueError("weights must be contiguous")
        addresses = [tensor.data_ptr() for tensor in self.tensors] + [None] * (3 - len(self.tensors))
        self.argument = structs.Matrix(kind, group, *addresses, *shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)


def plain(weight: Tensor) -> Matrix:
    """From float32 or bfloat16 [outputs, inputs] or [experts, outputs, inputs], not copied."""
    stack = weight[None] if weight.dim() == 2 else weight
    return Matrix(_PLAIN[weight.dtype], (stack.shape[0], stack.shape[1], stack.shape[2]), (stack,))


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """One stack from matrices of one shape and format."""
    first = parts[0]
    if any(
        (p.kind, p.group, p.outputs, p.inputs) != (first.kind, first.group, first.outputs, first.inputs) for p in parts
    ):
        raise ValueError("only matrices of one shape and format can be stacked")
    tensors = [torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)]
    return Matrix(first.kind, (sum(p.experts for p in parts), first.outputs, first.inputs), tensors, first.group)


@dataclass(frozen=True, slots=True)
class Mlps:
    """SwiGLU MLPs of one shape: gate and up [E, inner, hidden] of one format, down [E, hidden, inner]."""

    gate: Matrix
    up: Matrix
    down: Matrix

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """All three."""
        return self.gate, self.up, self.down
