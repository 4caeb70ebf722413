"""Rotary positions: plain RoPE and YaRN, as tables of cos and signed sin for interleaved pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.spec.model import RopeSpec

_ROWS = 512  # positions computed at a time, so that a table's length changes no bit of it


def inverse_frequencies(rope: RopeSpec, dim: int) -> Tensor:
    """float32 [dim / 2]; YaRN blends interpolated and original frequencies along a ramp (Peng et al. 2023, §3.2)."""
    powers = rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if not rope.yarn:
        return 1.0 / powers
    low, high = _ramp_ends(rope, dim)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
    return 1.0 / (rope.factor * powers) * ramp + 1.0 / powers * (1.0 - ramp)


def _ramp_ends(rope: RopeSpec, dim: int) -> tuple[float, float]:
    def turn(rotations: float) -> float:
        whole = math.log(rope.original_positions / (rotations * 2 * math.pi))
        return dim * whole / (2 * math.log(rope.theta))

    low, high = turn(rope.beta_fast), turn(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return low, high + 0.001 if high == low else high


class Rotary:
    """cos and ±sin of every position, float32 [positions, dim]; each frequency stands twice, for its pair."""

    def __init__(self, rope: RopeSpec, dim: int, positions: int) -> None:
        frequencies = inverse_frequencies(rope, dim)
        sign = torch.tensor([-1.0, 1.0]).repeat(dim // 2)
        cos: list[Tensor] = []
        sin: list[Tensor] = []
        for start in range(0, positions, _ROWS):
            angles = torch.arange(start, start + _ROWS, dtype=torch.float32)[:, None] * frequencies
            cos.append((torch.cos(angles) * rope.cos_sin_scale).repeat_interleave(2, dim=1))
            sin.append((torch.sin(angles) * rope.cos_sin_scale).repeat_interleave(2, dim=1) * sign)
        self._cos, self._sin = torch.cat(cos)[:positions], torch.cat(sin)[:positions]

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and ±sin [T, dim] of positions int64 [T]."""
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)
