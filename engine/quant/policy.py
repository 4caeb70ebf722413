"""From weights to the number format a policy names: packed for the kernels, or as the values such weights have."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from engine.kernels.cpu.matrix import Matrix, plain
from engine.quant import int4, int8
from engine.quant.compressed import Quantised
from engine.spec.matrices import group_of
from engine.spec.memory import Held
from engine.spec.policy import Format

Stored = Literal["float32", "bfloat16", "int8", "int4"]


def stored(wanted: Format, held: Held) -> Stored:
    """The number format in memory for a policy's format: what is not quantised is held as the model's dtype has it."""
    return held if wanted == "none" else wanted


def convert(weight: Tensor, wanted: Stored) -> Matrix:
    """[outputs, inputs] or a stack of such; int4 falls back to int8 where no group divides the inputs."""
    if wanted == "int4" and group_of(weight.shape[-1]):
        return int4.pack(int4.quantise(weight))
    if wanted in ("int4", "int8"):
        return int8.pack(int8.quantise(weight))
    dtype = torch.float32 if wanted == "float32" else torch.bfloat16
    return plain(weight.to(dtype).clone(memory_format=torch.contiguous_format))


def is_kept(found: Quantised, wanted: Format | Stored) -> bool:
    """Whether a matrix of whole numbers may stay as it is: it has the wanted format, or the fallback of int4."""
    if isinstance(found, int4.Quantised):
        return wanted == "int4"
    return wanted == "int8" or (wanted == "int4" and not group_of(found.q.shape[-1]))


def keep(found: Quantised) -> Matrix:
    """Into the kernels' layout, number by number."""
    return int4.pack(found) if isinstance(found, int4.Quantised) else int8.pack(found)


def rounded(weight: Tensor, wanted: Format | Stored) -> Tensor:
    """float32 values that the format can hold: what the reference kernels compute with."""
    if wanted == "int4" and group_of(weight.shape[-1]):
        return int4.dequantise(int4.quantise(weight))[0]
    if wanted in ("int4", "int8"):
        return int8.dequantise(int8.quantise(weight))[0]
    return weight
