"""Runs sequences through a model in any arrangement of steps: what bit-equality and parity tests are made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.modeling.deepseek import Model


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, of which the first `prompt` are the prompt, and where its blocks lie."""

    ids: Tensor
    prompt: int
    blocks: Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Rows first … end - 1 of one sequence in a step; may cross from prompt to generated."""

    sequence: Tokens
    first: int
    end: int


@dataclass(slots=True)
class _Flat:
    segments: list[Segment] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    slots: list[Tensor] = field(default_factory=list)
    length: int = 0

    def add(self, sequence: Tokens, first: int, end: int, block_size: int) -> None:
        """One segment of one role."""
        if first >= end:
            return
        positions = torch.arange(first, end)
        table = sequence.blocks
        self.segments.append(Segment(self.length, end - first, first, first >= sequence.prompt, table))
        self.ids.append(sequence.ids[first:end])
        self.positions.append(positions)
        self.slots.append(table[positions // block_size] * block_size + positions % block_size)
        self.length += end - first


def step(model: Model, cache: LatentCache, spans: Sequence[Span]) -> list[Tensor]:
    """Run one step and return the logits of all rows, span by span."""
    flat = _Flat()
    for span in spans:
        sequence, size = span.sequence, cache.block_size
        flat.add(sequence, span.first, min(span.end, sequence.prompt), size)
        flat.add(sequence, max(span.first, sequence.prompt), span.end, size)
    batch = StepBatch(
        torch.cat(flat.ids),
        torch.cat(flat.positions),
        torch.cat(flat.slots),
        tuple(flat.segments),
        torch.arange(flat.length),
    )
    logits = model.forward(batch, cache)
    return list(logits.split([span.end - span.first for span in spans]))


def alone(model: Model, ids: Tensor, prompt: int, *, chunk: int = 0, block_size: int = 16) -> Tensor:
    """Logits of every position of one sequence: its prompt in chunks (0: whole), then one token at a time."""
    blocks = -(-ids.numel() // block_size)
    cache = model.new_cache(blocks, block_size)
    sequence = Tokens(ids, prompt, torch.arange(blocks))
    cuts = list(range(0, prompt, chunk or prompt)) + list(range(prompt, ids.numel() + 1))
    return torch.cat([step(model, cache, [Span(sequence, a, b)])[0] for a, b in itertools.pairwise(cuts)])
