"""The two kinds of feed-forward layer: a plain MLP, and experts of which each token uses a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.packed import Mlp
from engine.kernels.table import Ops
from engine.layers.router import Router
from engine.layers.rows import Rows
from engine.parallel.collectives import NOBODY_ELSE, Group


@dataclass(frozen=True, slots=True)
class Dense:
    """A plain SwiGLU MLP."""

    ops: Ops
    mlp: Mlp

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """x [T, hidden] → [T, hidden]."""
        return self.ops.mlp_rows(x, self.mlp, rows.tile)


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts plus the shared ones, which every token uses unscaled."""

    ops: Ops
    router: Router
    routed: tuple[Mlp, ...]  # this rank's share, in order of their ids
    shared: Mlp | None
    group: Group = NOBODY_ELSE  # the ranks among which the experts are divided

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """x [T, hidden] → [T, hidden]: the routed sum in top-k order, then the shared experts."""
        ids, weights = self.router.choose(x, rows.tile)
        choose = self.ops.moe if self.group.size == 1 else self._divided
        routed = choose(x, ids[: rows.count], weights[: rows.count], self.routed, rows.tile)
        total = x.new_zeros(x.shape)
        total[: rows.count] = routed
        if self.shared is not None:
            total += self.ops.mlp_rows(x, self.shared, rows.tile)
        return total

    def _divided(self, x: Tensor, ids: Tensor, weights: Tensor, experts: Sequence[Mlp], tile: int) -> Tensor:
        """`moe` with experts on several ranks: each computes its pairs, all get all, and add them in top-k order.

        The bits are those of one rank: a pair's output is the same wherever it is computed, the order of sums too.
        """
        tokens, top_k = ids.shape
        owner = ids.reshape(-1) // len(experts)
        order = torch.argsort(owner, stable=True)
        counts = torch.bincount(owner, minlength=self.group.size).tolist()
        own = order[sum(counts[: self.group.index]) :][: counts[self.group.index]]
        found = self.ops.expert_rows(x[own // top_k], ids.reshape(-1)[own] % len(experts), experts, tile)
        outputs = x.new_empty(tokens * top_k, x.shape[1])
        outputs[order] = self.group.exchange(found, counts)
        return self.ops.top_k_sum(outputs.view(tokens, top_k, -1), weights)
