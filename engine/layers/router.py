"""The router: which experts a token goes to, and with what weight, in float32 always."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.packed import Packed
from engine.kernels.reference import sigmoid
from engine.kernels.table import Ops
from engine.spec.model import RouterSpec

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Router:
    """One layer's gate; the bias changes who is chosen, never the weight of the chosen."""

    spec: RouterSpec
    ops: Ops
    gate: Packed  # hidden → experts
    bias: Tensor | None  # float32 [experts]

    def choose(self, x: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        """x [T, hidden] → expert ids int64 [T, k] and weights float32 [T, k], best first."""
        logits = self.ops.linear_rows(x, self.gate, tile)[:, : self.spec.experts]
        scores = sigmoid(logits) if self.spec.scoring == "sigmoid" else _softmax(logits)
        choice = scores if self.bias is None else scores + self.bias
        ids = torch.topk(self._in_groups(choice), self.spec.top_k, dim=-1).indices
        weights = scores.gather(1, ids)
        if self.spec.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return ids, weights * self.spec.scale

    def _in_groups(self, choice: Tensor) -> Tensor:
        """Scores with all but the best groups of experts set to −∞."""
        spec = self.spec
        if spec.method == "greedy" or spec.top_groups == spec.groups:
            return choice
        grouped = choice.view(choice.shape[0], spec.groups, -1)
        best = grouped.amax(-1) if spec.method == "group_limited_greedy" else grouped.topk(2, dim=-1).values.sum(-1)
        kept = torch.topk(best, spec.top_groups, dim=-1).indices
        dropped = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept, False)
        return grouped.masked_fill(dropped[:, :, None], _NEVER).view(choice.shape)


def _softmax(logits: Tensor) -> Tensor:
    powers = torch.exp(logits - logits.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)
