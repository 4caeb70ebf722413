"""One step's rows as the layers see them: flat tokens, cut into segments of one sequence and one role."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one sequence with one role; a step may hold two segments of the same sequence.

    Rows attend to cache positions 0 … their own position, which lie in `block_table` (int64 [blocks]).
    """

    start: int  # first row in the flat batch
    length: int  # rows
    position: int  # position of the first row in its sequence
    generated: bool  # True: decode arithmetic (absorbed); False: prefill arithmetic (expanded)
    block_table: Tensor


@dataclass(frozen=True, slots=True)
class StepBatch:
    """T rows of a step. All cache entries of a layer are written before any row of that layer attends."""

    token_ids: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T]: block × block_size + offset, where a row's latent is written
    segments: tuple[Segment, ...]
    rows: Tensor  # int64 [S]: the rows whose logits are wanted
