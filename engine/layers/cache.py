"""The latent cache: one row of values per token and layer, addressed by slot."""

from __future__ import annotations

import torch
from torch import Tensor


class LatentCache:
    """Latents of every layer: [slots + 1, latent_dim]; the last row stays zero and stands for "nothing there"."""

    def __init__(self, num_layers: int, num_blocks: int, block_size: int, latent_dim: int, dtype: torch.dtype) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.nowhere = num_blocks * block_size  # the slot of positions past a sequence's end
        self.layers = tuple(torch.zeros(self.nowhere + 1, latent_dim, dtype=dtype) for _ in range(num_layers))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def slots_of(self, block_table: Tensor, end: int, length: int) -> Tensor:
        """Slots int64 [length] of positions 0 … length - 1; those from `end` on are nowhere."""
        blocks = block_table[: -(-end // self.block_size)]
        known = (blocks[:, None] * self.block_size + torch.arange(self.block_size)).view(-1)[:end]
        slots = torch.full((length,), self.nowhere, dtype=torch.int64)
        slots[: known.numel()] = known
        return slots
