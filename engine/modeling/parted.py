"""A model in parts: rank 0's part, which has the others compute the same step and gets the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.modeling.deepseek import Model
from engine.spec.model import ModelSpec
from engine.wire.orders import Forward, NewCache, Order

TRIAL_CACHE = 0  # the number of caches of shortened models: each replaces the one before
MAIN_CACHE = 1


class GroupBrokenError(BaseException):
    """A step that one rank did not finish: the others wait in the middle of it, so the whole group must start again.

    Not an Exception: whoever tries a failed step again, sequence by sequence, must not try this one.
    """


@dataclass(frozen=True, slots=True)
class NumberedCache:
    """Rank 0's cache, and the number under which the other ranks keep theirs."""

    own: LatentCache
    number: int

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.own.block_size

    @property
    def nbytes(self) -> int:
        """Bytes held by rank 0."""
        return self.own.nbytes


class PartedModel:
    """Looks like a whole model to those who use one.

    `tell` sends an order to all other ranks; `on_broken` is called when a step did not come to its end.
    """

    def __init__(
        self,
        part: Model,
        tell: Callable[[Order], None],
        on_broken: Callable[[], None],
        steps: list[int] | None = None,
    ) -> None:
        self.part = part
        self._tell = tell
        self._on_broken = on_broken
        self._steps = steps if steps is not None else [0]  # shared with shortened copies: ranks count once
        self._is_short = steps is not None

    @property
    def spec(self) -> ModelSpec:
        """Of the whole model."""
        return self.part.spec

    @property
    def numerics(self) -> str:
        """Everything that decides the bits of a logit."""
        return self.part.numerics

    @property
    def skipped_mtp_tensors(self) -> int:
        """Tensors of the draft head, which are not loaded."""
        return self.part.skipped_mtp_tensors

    @property
    def weight_bytes(self) -> int:
        """Bytes of the largest part, which is taken to be rank 0's."""
        return self.part.weight_bytes

    def new_cache(self, num_blocks: int, block_size: int) -> NumberedCache:
        """An empty cache on every rank."""
        number = TRIAL_CACHE if self._is_short else MAIN_CACHE
        self._tell(NewCache(number, num_blocks, block_size))
        return NumberedCache(self.part.new_cache(num_blocks, block_size), number)

    def forward(self, batch: StepBatch, cache: NumberedCache) -> Tensor:
        """Logits float32 [S, vocab] of `batch.rows`."""
        self._steps[0] += 1
        try:
            self._tell(order_of(batch, self._steps[0], cache.number, self._is_short))
            return self.part.forward(batch, cache.own)
        except Exception as error:
            self._on_broken()
            what = f"{type(error).__name__}: {error}"
            raise GroupBrokenError(f"step {self._steps[0]} failed on rank 0: {what}") from error

    def shortened(self) -> PartedModel:
        """One layer of each kind in every stage, on the same ranks."""
        return PartedModel(self.part.shortened(), self._tell, self._on_broken, self._steps)


def order_of(batch: StepBatch, step: int, cache: int, is_short: bool) -> Forward:
    """The order to compute a batch."""
    order = Forward(
        step=step,
        cache=cache,
        is_short=is_short,
        token_ids=_bytes(batch.token_ids),
        positions=_bytes(batch.positions),
        slots=_bytes(batch.slots),
        rows=_bytes(batch.rows),
        segments=[(s.start, s.length, s.position, s.generated, _bytes(s.block_table)) for s in batch.segments],
        crc=0,
    )
    return Forward(*(getattr(order, name) for name in order.__struct_fields__[:-1]), crc=order.checksum())


def batch_of(order: Forward) -> StepBatch:
    """The batch an order carries."""
    return StepBatch(
        token_ids=_ints(order.token_ids),
        positions=_ints(order.positions),
        slots=_ints(order.slots),
        segments=tuple(
            Segment(start, length, position, generated, _ints(table))
            for start, length, position, generated, table in order.segments
        ),
        rows=_ints(order.rows),
    )


def _bytes(values: Tensor) -> bytes:
    return values.numpy().tobytes()


def _ints(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.int64).copy())
