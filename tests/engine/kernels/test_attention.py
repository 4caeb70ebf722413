"""Both forms of attention against a plain softmax in float64, and against themselves in other arrangements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.attention import attend_generated, attend_prompt
from engine.kernels.packed import pack
from engine.kernels.table import POSITIONS, PromptKeys

HEADS, NOPE, ROPE, VALUE, RANK = 3, 10, 6, 7, 20
LENGTH = 150  # two whole tiles and a part


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _latents(length: int = LENGTH) -> Tensor:
    latents = torch.zeros(-(-length // POSITIONS) * POSITIONS, RANK + ROPE)
    latents[:length] = _randn(LENGTH, RANK + ROPE, seed=0)[:length]
    return latents


def _weights() -> Tensor:
    return _randn(HEADS * (NOPE + VALUE), RANK, seed=1) / 3


def _queries() -> Tensor:
    return _randn(LENGTH, HEADS, NOPE + ROPE, seed=2) / 2


def _keys(length: int) -> PromptKeys:
    return PromptKeys(_latents(length), pack(_weights()), RANK, NOPE, VALUE)


def _plain(queries: Tensor, position: int) -> Tensor:
    """Causal softmax attention in float64 with expanded keys and values."""
    latents = _latents()[:LENGTH].double()
    both = (latents[:, :RANK] @ _weights().double().t()).view(LENGTH, HEADS, NOPE + VALUE)
    keys = torch.cat((both[:, :, :NOPE], latents[:, None, RANK:].expand(-1, HEADS, -1)), -1)
    scores = torch.einsum("nhd,mhd->nhm", queries.double(), keys)
    own = torch.arange(position, position + queries.shape[0])
    scores = scores.masked_fill(torch.arange(LENGTH) > own[:, None, None], float("-inf"))
    return torch.einsum("nhm,mhv->nhv", scores.softmax(-1), both[:, :, NOPE:]).flatten(1)


def test_prompt_attention_is_causal_softmax() -> None:
    """All rows at once, against plain arithmetic."""
    found = attend_prompt(_queries(), 0, _keys(LENGTH))
    torch.testing.assert_close(found.double(), _plain(_queries(), 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 32, 64, 100])
def test_prompt_chunks_change_no_bit(chunk: int) -> None:
    """Rows give the same bits in chunks of any length."""
    queries = _queries()
    whole = attend_prompt(queries, 0, _keys(LENGTH))
    for start in range(0, LENGTH, chunk):
        end = min(start + chunk, LENGTH)
        assert torch.equal(attend_prompt(queries[start:end], start, _keys(end)), whole[start:end])


def _absorbed(queries: Tensor) -> Tensor:
    heads = _weights().view(HEADS, NOPE + VALUE, RANK)
    latent = torch.einsum("nhd,hdr->nhr", queries[:, :, :NOPE], heads[:, :NOPE])
    return torch.cat((latent, queries[:, :, NOPE:]), -1)


def _hidden(positions: Tensor, tiles: int) -> Tensor:
    return torch.arange(tiles * POSITIONS) > positions[:, None, None]


def test_absorbed_attention_is_the_same_attention() -> None:
    """Scores against latents, values from latents: the expanded result within rounding."""
    q = _absorbed(_queries())
    keys = _latents().view(1, -1, POSITIONS, RANK + ROPE)
    latent = attend_generated(q, keys, _hidden(torch.arange(LENGTH), keys.shape[1]), RANK)
    heads = _weights().view(HEADS, NOPE + VALUE, RANK)
    found = torch.einsum("nhr,hvr->nhv", latent.double(), heads[:, NOPE:].double()).flatten(1)
    torch.testing.assert_close(found, _plain(_queries(), 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", [0, 1, 63, 64, 100, 149])
def test_generated_rows_are_strangers(position: int) -> None:
    """A row alone over just its own tiles has the bits it has among all rows over all tiles."""
    q = _absorbed(_queries())
    keys = _latents().view(1, -1, POSITIONS, RANK + ROPE)
    together = attend_generated(q, keys, _hidden(torch.arange(LENGTH), keys.shape[1]), RANK)
    own = _latents(position + 1).view(1, -1, POSITIONS, RANK + ROPE)
    alone = attend_generated(q[position : position + 1], own, _hidden(torch.tensor([position]), own.shape[1]), RANK)
    assert torch.equal(alone[0], together[position])


def test_own_keys_equal_shared_keys() -> None:
    """Rows that each bring a copy of the keys agree with rows that share them."""
    q = _absorbed(_queries())[90:140]
    keys = _latents().view(1, -1, POSITIONS, RANK + ROPE)
    hidden = _hidden(torch.arange(90, 140), keys.shape[1])
    copies = keys.expand(50, -1, -1, -1).contiguous()
    assert torch.equal(attend_generated(q, copies, hidden, RANK), attend_generated(q, keys, hidden, RANK))


@pytest.mark.parametrize("heads", [1, 6, 8, 16])
def test_wide_latents_are_summed_alike(heads: int) -> None:
    """With the published rank of 512 a row alone has its bits among others."""
    q, keys = _randn(9, heads, 576, seed=3) / 20, _randn(1, 2, POSITIONS, 576, seed=4)
    hidden = _hidden(torch.arange(100, 109), 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = attend_generated(q, keys, hidden, 512)
        for row in range(9):
            alone = attend_generated(q[row : row + 1], keys, hidden[row : row + 1], 512)
            assert torch.equal(alone[0], together[row])
    finally:
        torch.set_num_threads(before)
