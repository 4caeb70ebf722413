"""Which number format each class of weights is held in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.kernels.cpu.matrix import Matrix, plain
from engine.quant import int4, int8
from engine.spec.config import Quantization

Format = Literal["float32", "bfloat16", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Formats by class; router, norms and the embedding table are never quantised."""

    attention: Format
    mlp: Format  # dense layers and shared experts
    routed: Format
    head: Format

    def format_of(self, name: str) -> Format:
        """Of the matrix with this published name."""
        if name.startswith("lm_head"):
            return self.head
        if ".self_attn." in name:
            return self.attention
        return self.routed if ".experts." in name else self.mlp


def policy_of(quantization: Quantization, plain_format: Format) -> Policy:
    """int8: every matrix; int4: routed experts in four bits, the rest in eight; none: all in `plain_format`."""
    if quantization == "none":
        return Policy(plain_format, plain_format, plain_format, plain_format)
    return Policy("int8", "int8", quantization, "int8")


def convert(weight: Tensor, wanted: Format) -> Matrix:
    """[outputs, inputs] or a stack of such; int4 falls back to int8 where no group divides the inputs."""
    if wanted == "int4" and int4.group_of(weight.shape[-1]):
        return int4.pack(int4.quantise(weight))
    if wanted in ("int4", "int8"):
        return int8.pack(int8.quantise(weight))
    return plain(
        weight.to(torch.float32 if wanted == "float32" else torch.bfloat16).clone(memory_format=torch.contiguous_format)
    )


def rounded(weight: Tensor, wanted: Format) -> Tensor:
    """float32 values that the format can hold: what the reference kernels compute with."""
    if wanted == "int4" and int4.group_of(weight.shape[-1]):
        return int4.dequantise(int4.quantise(weight))[0]
    if wanted in ("int4", "int8"):
        return int8.dequantise(int8.quantise(weight))[0]
    return weight
