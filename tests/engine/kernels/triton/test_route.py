"""The router's choice and the alignment of pairs to blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.kernels.packed import pack
from engine.kernels.reference import REFERENCE
from engine.kernels.triton.route import align, choose
from engine.layers.router import Router
from engine.spec.model import RouterSpec
from tests.engine.kernels.triton import DEVICE

_GREEDY = RouterSpec(
    experts=20, top_k=3, groups=1, top_groups=1, method="greedy", scoring="softmax", normalise=False, scale=1.0
)
_SPECS = {
    "greedy": _GREEDY,
    "groups": replace(_GREEDY, groups=5, top_groups=2, method="group_limited_greedy", scale=16.0),
    "two best": replace(
        _GREEDY, groups=5, top_groups=3, method="noaux_tc", scoring="sigmoid", normalise=True, scale=2.5, top_k=6
    ),
    "all of a kept group": replace(_GREEDY, groups=5, top_groups=1, method="group_limited_greedy", top_k=4),
}


@pytest.mark.parametrize("tokens", [1, 33])
@pytest.mark.parametrize("name", _SPECS)
def test_the_choice_is_the_references(name: str, tokens: int) -> None:
    """Same experts in the same order, same weights, for every method and with experts that fill no power of two."""
    spec = _SPECS[name]
    generator = torch.Generator().manual_seed(tokens)
    gate = torch.eye(spec.experts)
    bias = torch.randn(spec.experts, generator=generator) * 0.3 if spec.method == "noaux_tc" else None
    logits = torch.randn(tokens, spec.experts, generator=generator) * 2
    tile = 8
    padded = torch.nn.functional.pad(logits, (0, 0, 0, -tokens % tile))
    ids, weights = Router(spec, REFERENCE, pack(gate), bias).choose(padded, tile)
    found, shares = choose(logits.to(DEVICE), None if bias is None else bias.to(DEVICE), spec)
    assert found.cpu().tolist() == ids[:tokens].tolist()
    torch.testing.assert_close(shares.cpu(), weights[:tokens], atol=1e-5, rtol=1e-5)


def test_equal_scores_go_to_the_lowest_id() -> None:
    """Ties are broken the same way whatever the hardware."""
    ids, _ = choose(torch.zeros(2, 20, device=DEVICE), None, _SPECS["groups"])
    assert ids.cpu().tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(("tokens", "top_k", "experts", "block"), [(1, 1, 1, 16), (7, 3, 5, 16), (200, 8, 20, 64)])
def test_every_pair_lies_once_in_a_block_of_its_expert(tokens: int, top_k: int, experts: int, block: int) -> None:
    """Pairs of experts that are held lie once, in order, in blocks of their expert; the rest lie nowhere."""
    ids = torch.randint(0, experts + 1, (tokens, top_k), generator=torch.Generator().manual_seed(1)).int()
    found = align(ids.to(DEVICE), experts, block)
    flat = ids.flatten().tolist()
    blocks = found.pairs.cpu().view(-1, block).tolist()
    placed: list[int] = []
    for owner, pairs in zip(found.experts.cpu().tolist(), blocks, strict=True):
        real = [pair for pair in pairs if pair < len(flat)]
        assert all(flat[pair] == owner for pair in real)
        assert real or owner == -1
        placed += real
    assert sorted(placed) == [pair for pair, expert in enumerate(flat) if expert < experts]
    assert placed == sorted(placed, key=lambda pair: (flat[pair], pair))
