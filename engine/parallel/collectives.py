"""What ranks say to each other: sums in rank order, gathers, hand-overs. One door to torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.parallel.mesh import ALONE, Place, members


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks along one axis; a group of one does nothing and costs nothing."""

    index: int = 0
    size: int = 1
    handle: Any = None

    def sum(self, x: Tensor) -> Tensor:
        """Σ over the ranks, added in rank order.

        Not an all-reduce: that one cuts its sums by the tensor's size, so a row's bits would depend on the batch.
        """
        if self.size == 1:
            return x
        parts = self.gather(x)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's x, of the same shape, in rank order."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.handle)
        return parts

    def exchange(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Every rank's rows one after the other: rank r has counts[r] of them, `rows` are this rank's."""
        sent = rows.repeat(self.size, 1)
        found = rows.new_empty(sum(counts), rows.shape[1])
        dist.all_to_all_single(
            found, sent, output_split_sizes=list(counts), input_split_sizes=[rows.shape[0]] * self.size,
            group=self.handle,
        )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True)
class Links:
    """A rank's place and its groups."""

    place: Place = ALONE
    tensor: Group = Group()
    expert: Group = Group()
    stages: tuple[int, ...] = (0,)  # global ranks of the pipeline this rank is part of

    @property
    def numerics(self) -> tuple[str, ...]:
        """What of the topology decides bits: only the tensor axis changes the order of sums."""
        size = self.place.tensor.size
        return () if size == 1 else (f"tensor-{size}",)

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if not dist.is_initialized() or self.world == 1:
            return number
        found = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(found, torch.tensor([number]))
        return max(int(one) for one in found)

    @property
    def world(self) -> int:
        """Ranks of all axes."""
        return self.place.tensor.size * self.place.expert.size * self.place.pipeline.size

    def take_over(self, rows: int, width: int) -> Tensor:
        """Hidden states float32 [rows, width] from the stage before."""
        x = torch.empty(rows, width)
        dist.recv(x, self.stages[self.place.pipeline.index - 1])
        return x

    def hand_over(self, x: Tensor) -> None:
        """Hidden states to the stage after."""
        dist.send(x.contiguous(), self.stages[self.place.pipeline.index + 1])

    def logits_home(self, logits: Tensor | None, rows: int, width: int) -> Tensor:
        """The last stage's logits [rows, width] at rank 0; other ranks get an empty tensor."""
        last = self.stages[-1]
        if last == self.place.rank == 0:
            return torch.empty(0) if logits is None else logits
        if self.place.rank == 0:
            found = torch.empty(rows, width)
            dist.recv(found, last)
            return found
        if self.stages[0] == 0 and logits is not None:
            dist.send(logits.contiguous(), 0)
        return torch.empty(0)


NOBODY_ELSE = Group()
WHOLE = Links()  # of a model that one rank holds


def links(place: Place) -> Links:
    """Groups for a place. Every rank must call it at the same time: groups are made by all ranks together."""
    world = dist.get_world_size()
    made: dict[str, Group] = {}
    for axis in ("tensor", "expert"):
        for first in range(world):
            where = _place_like(first, place)
            ranks = members(where, axis)
            if ranks[0] != first:
                continue
            handle = dist.new_group(list(ranks)) if len(ranks) > 1 else None
            if place.rank in ranks:
                made[axis] = Group(ranks.index(place.rank), len(ranks), handle)
    return Links(place, made["tensor"], made["expert"], members(place, "pipeline"))


def _place_like(rank: int, place: Place) -> Place:
    """The place of another rank of the same mesh."""
    rest, tensor = divmod(rank, place.tensor.size)
    pipeline, expert = divmod(rest, place.expert.size)
    axes = ((tensor, place.tensor), (expert, place.expert), (pipeline, place.pipeline))
    return Place(*(type(axis)(index, axis.size) for index, axis in axes))
