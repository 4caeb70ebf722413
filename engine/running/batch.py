"""Lays the works of a step out as rows: token ids, positions, cache slots, and segments of one sequence and role."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.layers.batch import Segment, StepBatch
from engine.scheduling.plan import Work

Ints = NDArray[np.int64]


def build(works: Sequence[Work], block_size: int) -> StepBatch:
    """The rows of all works, in order. Wanted rows are, work by work, those of `wanted_rows`."""
    ids: list[int] = []
    positions: list[Ints] = []
    slots: list[Ints] = []
    rows: list[int] = []
    segments: list[Segment] = []
    for work in works:
        table = np.array(work.sequence.blocks[: -(-work.end // block_size)], dtype=np.int64)
        places = np.arange(work.start, work.end)
        segments += _segments(work, len(ids), torch.from_numpy(table))
        rows += [len(ids) + offset for offset in wanted_rows(work)]
        ids += work.sequence.tokens[work.start : work.end]
        positions.append(places)
        slots.append(table[places // block_size] * block_size + places % block_size)
    return StepBatch(
        token_ids=torch.tensor(ids, dtype=torch.int64),
        positions=torch.from_numpy(np.concatenate(positions)),
        slots=torch.from_numpy(np.concatenate(slots)),
        segments=tuple(segments),
        rows=torch.tensor(rows, dtype=torch.int64),
    )


def wanted_rows(work: Work) -> range:
    """Offsets within a work of the rows whose logits are looked at: all for prompt_logprobs, else the choosing one."""
    if work.sequence.prompt_tops is not None and work.start < work.sequence.prompt_len:
        return range(work.count)
    return range(work.count - 1, work.count) if work.chooses else range(0)


def _segments(work: Work, row: int, table: torch.Tensor) -> list[Segment]:
    """One segment per role; a replay's work may cross from the prompt into the output."""
    border = min(max(work.sequence.prompt_len, work.start), work.end)
    spans = ((work.start, border, False), (border, work.end, True))
    return [
        Segment(row + first - work.start, end - first, first, generated, table)
        for first, end, generated in spans
        if end > first
    ]
