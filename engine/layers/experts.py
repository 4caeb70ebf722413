"""The two kinds of feed-forward layer: a plain MLP, and experts of which each token uses a few."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.kernels.packed import Mlp
from engine.kernels.table import Ops
from engine.layers.router import Router
from engine.layers.rows import Rows


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
    routed: tuple[Mlp, ...]
    shared: Mlp | None

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """x [T, hidden] → [T, hidden]: the routed sum in top-k order, then the shared experts."""
        ids, weights = self.router.choose(x, rows.tile)
        routed = self.ops.moe(x, ids[: rows.count], weights[: rows.count], self.routed, rows.tile)
        total = x.new_zeros(x.shape)
        total[: rows.count] = routed
        if self.shared is not None:
            total += self.ops.mlp_rows(x, self.shared, rows.tile)
        return total
