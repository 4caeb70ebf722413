"""Norm with residual, rotation with cache write, attention over pages, and the draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels.reference import rms_norm as slow_norm
from engine.kernels.reference import rope as slow_rope
from engine.kernels.triton.attention import Pages, attend
from engine.kernels.triton.latent import remember, turn_queries
from engine.kernels.triton.norm import rms_norm
from engine.kernels.triton.sample import Draws, draw
from engine.layers.rotary import Rotary
from engine.running.sampler import Question, choose
from engine.spec.model import RopeSpec
from engine.wire.messages import Sampling
from tests.engine.kernels.triton import DEVICE


@pytest.mark.parametrize("rows", [0, 1, 33])
@pytest.mark.parametrize("width", [7, 96, 1000])
def test_norm_adds_the_residual_first(rows: int, width: int) -> None:
    """The sum goes back to the residual stream, its norm to the result."""
    x, added, weight = torch.randn(rows, width), torch.randn(rows, width), torch.rand(width)
    stream = x.clone().to(DEVICE)
    found = rms_norm(stream, weight.to(DEVICE), 1e-6, torch.float32, added.to(DEVICE))
    torch.testing.assert_close(stream.cpu(), x + added)
    torch.testing.assert_close(found.cpu(), slow_norm(x + added, weight, 1e-6))


def test_norm_reads_a_part_of_wider_rows() -> None:
    """Rows of a view keep their stride."""
    wide = torch.randn(5, 40)
    weight = torch.rand(24)
    found = rms_norm(wide.to(DEVICE)[:, 8:32], weight.to(DEVICE), 1e-6, torch.float32)
    torch.testing.assert_close(found.cpu(), slow_norm(wide[:, 8:32], weight, 1e-6))


def _turn(positions: Tensor, rope: int) -> tuple[Tensor, Tensor]:
    cos, sin = Rotary(RopeSpec(theta=10000.0), rope, 512).at(positions)
    return cos.to(DEVICE), sin.to(DEVICE)


@pytest.mark.parametrize(("rank", "rope"), [(20, 8), (32, 16), (512, 64)])
def test_latents_are_normed_turned_and_written(rank: int, rope: int) -> None:
    """A row's slot holds norm(latent) and the turned key; other slots are left alone."""
    down = torch.randn(5, 12 + rank + rope)
    weight = torch.rand(rank)
    positions = torch.tensor([0, 1, 77, 300, 4])
    slots = torch.tensor([9, 3, 0, 7, 5])
    cos, sin = _turn(positions, rope)
    cache = torch.full((11, rank + rope), 7.0, device=DEVICE)
    remember(down.to(DEVICE)[:, 12:], weight.to(DEVICE), 1e-6, (cos, sin), slots.to(DEVICE), cache)
    expected = torch.full((11, rank + rope), 7.0)
    turned = slow_rope(down[:, 12 + rank :], cos.cpu(), sin.cpu())
    expected[slots] = torch.cat((slow_norm(down[:, 12 : 12 + rank], weight, 1e-6), turned), 1)
    torch.testing.assert_close(cache.cpu(), expected)


def test_queries_are_turned_into_their_place() -> None:
    """The rope part of each head goes to the end of the absorbed query."""
    q, out = torch.randn(3, 5, 24), torch.zeros(3, 5, 40, device=DEVICE)
    cos, sin = _turn(torch.tensor([5, 0, 99]), 8)
    turn_queries(q.to(DEVICE)[:, :, 16:], (cos, sin), out[:, :, 32:])
    torch.testing.assert_close(out.cpu()[:, :, 32:], slow_rope(q[:, :, 16:], cos.cpu(), sin.cpu()))
    assert not out[:, :, :32].any()


def _attend_slowly(q: Tensor, cache: Tensor, pages: Pages, rank: int) -> Tensor:
    y = torch.zeros(q.shape[0], q.shape[1], rank)
    for row, length in enumerate(pages.lengths.tolist()):
        places = [
            int(pages.tables[row, p // pages.block_size]) * pages.block_size + p % pages.block_size
            for p in range(length)
        ]
        if places:
            keys = cache[places]
            y[row] = torch.softmax(q[row] @ keys.T, -1) @ keys[:, :rank]
    return y


@pytest.mark.parametrize(
    ("rows", "heads", "rank", "rope"), [(1, 3, 20, 8), (6, 16, 64, 16), (6, 20, 32, 8), (140, 3, 20, 8)]
)
def test_attention_over_pages(heads: int, rank: int, rope: int, rows: int) -> None:
    """Any number of heads and (by the rows) of splits, any length, pages in any order; a row of nothing gives zeros."""
    generator = torch.Generator().manual_seed(heads)
    lengths = torch.tensor([150, 1, 16, 17, 0, 160], dtype=torch.int32)[torch.arange(rows) % 6]
    lengths[6:] %= 9  # many short rows: one split each
    tables = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in lengths]).int()
    cache = torch.randn(40 * 16, rank + rope, generator=generator)
    q = torch.randn(len(lengths), heads, rank + rope, generator=generator) / 4
    pages = Pages(tables.to(DEVICE), lengths.to(DEVICE), 16)
    found = attend(q.to(DEVICE), cache.to(DEVICE), pages, rank)
    torch.testing.assert_close(found.cpu(), _attend_slowly(q, cache, pages, rank), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("vocab", [5, 1024, 3001])
def test_the_draw_is_the_engines_own(vocab: int) -> None:
    """Seeds, choices, positions beyond 32 bits, temperatures: the same token as the sampler on the host."""
    generator = np.random.default_rng(vocab)
    addresses = [(7, 0, 0), (7, 1, 0), (7, 0, 1), ((1 << 63) - 1, 3, (1 << 33) + 5), (123456789012, 0, 17), (1, 0, 2)]
    temperatures = [1.0, 0.3, 2.0, 1.0, 0.7, 0.0]
    logits = generator.standard_normal((len(addresses), vocab)).astype(np.float32) * 3
    questions = [
        Question(row, Sampling(seed=seed, max_tokens=9, choice=choice, temperature=temperature), [], range(position))
        for row, (seed, choice, position), temperature in zip(logits, addresses, temperatures, strict=True)
    ]
    draws = Draws(torch.tensor(temperatures, dtype=torch.float64).to(DEVICE), torch.tensor(addresses).to(DEVICE))
    assert draw(torch.from_numpy(logits).to(DEVICE), draws).cpu().tolist() == choose(questions)


def test_forbidden_ids_are_never_drawn() -> None:
    """−∞ stays −∞ with any noise; equal logits at temperature 0 go to the lowest id."""
    logits = torch.full((2, 2000), float("-inf"))
    logits[0, [40, 1500]] = 1.0
    logits[1, 1999] = -50.0
    draws = Draws(torch.tensor([0.0, 1.5], dtype=torch.float64).to(DEVICE), torch.tensor([[1, 0, 0]] * 2).to(DEVICE))
    assert draw(logits.to(DEVICE), draws).cpu().tolist() == [40, 1999]
