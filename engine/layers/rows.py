"""A step's rows of one role, padded and with everything that all layers need to know, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.table import POSITIONS
from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.layers.rotary import Rotary

GROUP_BYTES = 32 << 20  # most gathered latents or scores of one group of generated rows
GROUP_ROWS = 64  # most rows of one sequence that attend together: more would compute tiles that early rows never see


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Consecutive prompt rows of one sequence: rows `start` … `start + length - 1` of the role."""

    start: int
    length: int
    position: int
    slots: Tensor  # int64 [tiles × POSITIONS], of positions 0 …


@dataclass(frozen=True, slots=True)
class GeneratedGroup:
    """Generated rows that attend together: each to its own keys, or all to those of their one sequence."""

    rows: Tensor  # int64 [n], rows of the role
    slots: Tensor  # int64 [n or 1, tiles × POSITIONS]
    hidden: Tensor  # bool [n, 1, tiles × POSITIONS]: positions a row must not see


@dataclass(frozen=True, slots=True)
class Rows:
    """T rows, `count` of them real and the rest zero padding up to a multiple of `tile`."""

    tile: int
    count: int
    index: Tensor  # int64 [count]: rows of the step's flat batch
    token_ids: Tensor  # int64 [T]
    cos: Tensor  # float32 [T, rope_dim]
    sin: Tensor
    slots: Tensor  # int64 [count]: where latents are written
    prompts: tuple[PromptPart, ...]
    groups: tuple[GeneratedGroup, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What splitting a batch depends on besides the batch."""

    prompt_tile: int
    generated_tile: int
    rotary: Rotary
    num_heads: int


def split_roles(batch: StepBatch, cache: LatentCache, layout: Layout) -> list[Rows]:
    """Prompt rows first, then generated ones: within a step no prompt row attends to a generated one."""
    parts: list[Rows] = []
    for generated in (False, True):
        segments = [segment for segment in batch.segments if segment.generated is generated and segment.length]
        if segments:
            parts.append(_rows(batch, segments, cache, layout))
    return parts


def _rows(batch: StepBatch, segments: list[Segment], cache: LatentCache, layout: Layout) -> Rows:
    generated = segments[0].generated
    tile = layout.generated_tile if generated else layout.prompt_tile
    index = torch.cat([torch.arange(s.start, s.start + s.length) for s in segments])
    count = index.numel()
    padding = -count % tile
    positions = torch.nn.functional.pad(batch.positions[index], (0, padding))
    cos, sin = layout.rotary.at(positions)
    return Rows(
        tile=tile,
        count=count,
        index=index,
        token_ids=torch.nn.functional.pad(batch.token_ids[index], (0, padding)),
        cos=cos,
        sin=sin,
        slots=batch.slots[index],
        prompts=() if generated else _prompt_parts(segments, cache),
        groups=_generated_groups(segments, cache, layout.num_heads) if generated else (),
    )


def _tiles(end: int) -> int:
    return -(-end // POSITIONS)


def _prompt_parts(segments: list[Segment], cache: LatentCache) -> tuple[PromptPart, ...]:
    parts: list[PromptPart] = []
    start = 0
    for segment in segments:
        end = segment.position + segment.length
        slots = cache.slots_of(segment.block_table, end, _tiles(end) * POSITIONS)
        parts.append(PromptPart(start, segment.length, segment.position, slots))
        start += segment.length
    return tuple(parts)


def _generated_groups(segments: list[Segment], cache: LatentCache, num_heads: int) -> tuple[GeneratedGroup, ...]:
    groups: list[GeneratedGroup] = []
    singles: list[tuple[int, Segment]] = []
    start = 0
    for segment in segments:
        if segment.length == 1:
            singles.append((start, segment))
        else:
            groups += _shared_groups(start, segment, cache, num_heads)
        start += segment.length
    width = cache.layers[0].shape[1]
    singles.sort(key=lambda item: item[1].position)
    while singles:
        # rows of similar length together: the shortest decides how long the longest may be
        tiles = _tiles(singles[0][1].position + 1)
        longest = max(2 * tiles, 4)
        most = max(1, GROUP_BYTES // (4 * longest * POSITIONS * width))
        taken = [item for item in singles[:most] if _tiles(item[1].position + 1) <= longest]
        singles = singles[len(taken) :]
        groups.append(_single_group(taken, cache))
    return tuple(groups)


def _single_group(singles: list[tuple[int, Segment]], cache: LatentCache) -> GeneratedGroup:
    ends = [segment.position + 1 for _, segment in singles]
    length = _tiles(max(ends)) * POSITIONS
    tables = [cache.slots_of(s.block_table, end, length) for (_, s), end in zip(singles, ends, strict=True)]
    hidden = torch.arange(length) >= torch.tensor(ends)[:, None, None]
    return GeneratedGroup(torch.tensor([row for row, _ in singles]), torch.stack(tables), hidden)


def _shared_groups(start: int, segment: Segment, cache: LatentCache, num_heads: int) -> list[GeneratedGroup]:
    groups: list[GeneratedGroup] = []
    first = 0
    while first < segment.length:
        length = _tiles(segment.position + segment.length) * POSITIONS
        most = max(8, min(GROUP_ROWS, GROUP_BYTES // (4 * num_heads * length)))
        last = min(first + most, segment.length)
        ends = torch.arange(segment.position + first, segment.position + last) + 1
        end = segment.position + last
        slots = cache.slots_of(segment.block_table, end, _tiles(end) * POSITIONS)
        hidden = torch.arange(slots.numel()) >= ends[:, None, None]
        groups.append(GeneratedGroup(torch.arange(start + first, start + last), slots[None], hidden))
        first = last
    return groups
