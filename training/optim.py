"""Muon for matrices and AdamW for the rest; the state lies in shared memory and every worker updates its own share."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic of the Muon write-up by K. Jordan et al., 2024
_BETAS, _EPS, _DECAY, _MOMENTUM = (0.9, 0.95), 1e-10, 0.02, 0.95


def orthogonalise(grads: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix of grads [n, rows, cols] towards 1."""
    a, b, c = _NEWTON_SCHULZ
    tall = grads.shape[1] > grads.shape[2]
    x = grads.mT if tall else grads
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A parameter, its moments, and every worker's gradient of it [workers, …]; all in shared memory."""

    name: str
    param: nn.Parameter
    first: Tensor
    second: Tensor
    grads: Tensor
    matrix: bool

    def cost(self) -> float:
        """Roughly the work of an update, for a fair division."""
        rows, cols = (self.param.shape[-2], self.param.shape[-1]) if self.matrix else (4, 4)
        return self.param.numel() * (8 + min(rows, cols) * (1 + min(rows, cols) / max(rows, cols)))


class Optimizer:
    """All slots of a model; `step` is called by every worker with its number."""

    def __init__(self, model: nn.Module, workers: int, *, muon_lr: float, adam_lr: float) -> None:
        self.workers, self.muon_lr, self.adam_lr = workers, muon_lr, adam_lr
        self.steps = 0
        self.slots = [self._slot(name, p) for name, p in model.named_parameters()]
        self.shares: list[list[Slot]] = [[] for _ in range(workers)]
        loads = [0.0] * workers
        for slot in sorted(self.slots, key=Slot.cost, reverse=True):
            lightest = loads.index(min(loads))
            self.shares[lightest].append(slot)
            loads[lightest] += slot.cost()

    def _slot(self, name: str, param: nn.Parameter) -> Slot:
        # Embedding, head and router are tables of rows, not maps: they take AdamW like the norms.
        matrix = param.ndim > 1 and not ("embed_tokens" in name or "lm_head" in name or name.endswith("mlp.gate"))
        zeros = torch.zeros_like(param.data)
        first = zeros.clone().share_memory_()
        second = (zeros[:0] if matrix else zeros.clone()).clone().share_memory_()
        grads = torch.zeros(self.workers, *param.shape).share_memory_()
        return Slot(name, param, first, second, grads, matrix)

    def publish(self, worker: int) -> None:
        """Show this worker's gradients to the others and forget them."""
        for slot in self.slots:
            if slot.param.grad is None:
                slot.grads[worker].zero_()
            else:
                slot.grads[worker].copy_(slot.param.grad)
            slot.param.grad = None

    @torch.no_grad()
    def step(self, worker: int, scale: float) -> None:
        """Update this worker's share with the mean gradient and learning rates times `scale`."""
        self.steps += 1
        matrices: dict[tuple[int, int], list[Slot]] = defaultdict(list)
        for slot in self.shares[worker]:
            if slot.matrix:
                matrices[(slot.param.shape[-2], slot.param.shape[-1])].append(slot)
            else:
                self._adam(slot, self.adam_lr * scale)
        for (rows, cols), slots in matrices.items():
            self._muon(slots, rows, cols, self.muon_lr * scale)

    def _adam(self, slot: Slot, lr: float) -> None:
        grad = slot.grads.mean(0)
        slot.first.lerp_(grad, 1 - _BETAS[0])
        slot.second.lerp_(grad.square(), 1 - _BETAS[1])
        first = slot.first / (1 - _BETAS[0] ** self.steps)
        second = slot.second / (1 - _BETAS[1] ** self.steps)
        if slot.param.ndim > 1:
            slot.param.mul_(1 - lr * _DECAY)
        slot.param.addcdiv_(first, second.sqrt().add_(_EPS), value=-lr)

    def _muon(self, slots: list[Slot], rows: int, cols: int, lr: float) -> None:
        pieces: list[Tensor] = []
        for slot in slots:
            grad = slot.grads.mean(0)
            slot.first.lerp_(grad, 1 - _MOMENTUM)
            pieces.append(grad.lerp(slot.first, _MOMENTUM).reshape(-1, rows, cols))
        update = orthogonalise(torch.cat(pieces)) * max(1.0, rows / cols) ** 0.5
        for slot, part in zip(slots, update.split([piece.shape[0] for piece in pieces]), strict=True):
            slot.param.mul_(1 - lr * _DECAY).sub_(part.reshape(slot.param.shape), alpha=lr)

    def state(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint."""
        pairs = ((f"first.{s.name}", s.first) for s in self.slots), ((f"second.{s.name}", s.second) for s in self.slots)
        return dict(itertools.chain(*pairs))

    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Undo `state`."""
        for name, buffer in self.state().items():
            buffer.copy_(tensors[name])
        self.steps = steps


def schedule(progress: float) -> float:
    """Learning-rate factor for progress in [0, 1]: a short warm-up, a plateau, then a linear way down to 2 %."""
    if progress < 0.01:
        return max(progress / 0.01, 0.02)
    if progress < 0.45:
        return 1.0
    return max(0.02, 1.0 - (progress - 0.45) / 0.55 * 0.98)
