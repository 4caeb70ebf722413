"""Rows, slots and rotary tables: what layers are told about a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import engine.layers.rows
from engine.kernels.table import POSITIONS
from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.layers.rotary import Rotary
from engine.layers.rows import Layout, Rows, split_roles
from engine.modeling.loader import load
from engine.spec.config import EngineConfig
from engine.spec.model import RopeSpec
from tests.engine.checkpoints import make_checkpoint

ROTARY = Rotary(RopeSpec(10000.0), 8, 2000)
LAYOUT = Layout(prompt_tile=8, generated_tile=8, rotary=ROTARY, num_heads=2)


def _cache() -> LatentCache:
    return LatentCache(1, 200, 16, 10, torch.float32)


def _split(segments: list[tuple[int, int, bool]], cache: LatentCache) -> list[Rows]:
    """Rows of (position, length, generated) segments, each with blocks of its own."""
    made: list[Segment] = []
    start = 0
    for i, (position, length, generated) in enumerate(segments):
        made.append(Segment(start, length, position, generated, torch.arange(30) + 30 * i))
        start += length
    positions = torch.cat([torch.arange(p, p + n) for p, n, _ in segments])
    ids = torch.arange(start)
    return split_roles(StepBatch(ids, positions, ids, tuple(made), ids[:0]), cache, LAYOUT)


def test_slots_follow_the_block_table() -> None:
    """Position p lies in block table[p // size] at p % size; past the end lies the row of zeros."""
    cache = LatentCache(1, 10, 4, 2, torch.float32)
    slots = cache.slots_of(torch.tensor([7, 2, 9]), 10, 12)
    assert slots.tolist() == [28, 29, 30, 31, 8, 9, 10, 11, 36, 37, cache.nowhere, cache.nowhere]
    assert cache.nowhere == 40 and cache.layers[0].shape == (41, 2)


def test_roles_are_kept_apart_and_padded() -> None:
    """Prompt rows come first, each role padded to its tile, and every row knows its place in the step."""
    prompt, generated = _split([(5, 1, True), (0, 11, False), (40, 3, True), (20, 2, False)], _cache())
    assert prompt.index.tolist() == [*range(1, 12), 15, 16]
    assert generated.index.tolist() == [0, 12, 13, 14]
    assert (prompt.count, prompt.token_ids.numel()) == (13, 16)
    assert (generated.count, generated.token_ids.numel()) == (4, 8)
    assert prompt.token_ids.tolist() == [*range(1, 12), 15, 16, 0, 0, 0]
    assert [(part.start, part.length, part.position) for part in prompt.prompts] == [(0, 11, 0), (11, 2, 20)]
    assert sorted(row for group in generated.groups for row in group.rows.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [1 << 10, 32 << 20])
def test_every_generated_row_sees_exactly_its_past(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rows are grouped, each sees positions 0 … its own, in its own sequence's slots."""
    monkeypatch.setattr(engine.layers.rows, "GROUP_BYTES", limit)
    cache = _cache()
    segments = [(3, 1, True), (300, 1, True), (64, 1, True), (10, 150, True), (63, 1, True), (450, 1, True)]
    (rows,) = _split(segments, cache)
    positions = torch.cat([torch.arange(p, p + n) for p, n, _ in segments])
    owner = torch.cat([torch.full((n,), i) for i, (_, n, _) in enumerate(segments)])
    seen: list[int] = []
    for group in rows.groups:
        assert group.slots.shape[1] % POSITIONS == 0
        for i, row in enumerate(group.rows.tolist()):
            slots = group.slots[i if group.slots.shape[0] > 1 else 0]
            visible = slots[~group.hidden[i, 0]]
            first = 30 * 16 * int(owner[row])
            assert visible.tolist() == list(range(first, first + int(positions[row]) + 1))
            seen.append(row)
    assert sorted(seen) == list(range(rows.count))


def test_rotary_tables_do_not_depend_on_their_length() -> None:
    """A position has the same bits in a short and in a long table."""
    positions = torch.tensor([0, 1, 511, 512, 700])
    short, long = Rotary(RopeSpec(10000.0), 8, 701), Rotary(RopeSpec(10000.0), 8, 5000)
    for a, b in zip(short.at(positions), long.at(positions), strict=True):
        assert torch.equal(a, b)


def test_no_logits_wanted(tmp_path: Path) -> None:
    """A step that only fills the cache, as the first chunks of a long prompt do, returns no rows."""
    model = load(EngineConfig(str(make_checkpoint(tmp_path)), kernels="reference", dtype="float32"))
    cache = model.new_cache(2, 16)
    ids = torch.arange(20)
    segment = Segment(0, 20, 0, generated=False, block_table=torch.arange(2))
    assert model.forward(StepBatch(ids, ids, ids, (segment,), ids[:0]), cache).shape == (0, model.spec.vocab_size)
    assert cache.layers[2][:20].any(-1).all()
