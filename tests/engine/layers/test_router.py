"""The router against a plain reading of its rules, one token at a time, for every method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.packed import pack
from engine.kernels.reference import REFERENCE
from engine.kernels.rowwise import narrowest_tile
from engine.layers.router import Router
from engine.spec.model import RouterSpec

HIDDEN, TOKENS = 24, 48
SPECS = [
    RouterSpec(8, 3, "softmax", "greedy", scale=1.0),
    RouterSpec(12, 3, "softmax", "group_limited_greedy", groups=4, top_groups=2, scale=16.0),
    RouterSpec(12, 4, "sigmoid", "noaux_tc", groups=3, top_groups=2, normalise=True, scale=2.5),
    RouterSpec(8, 2, "sigmoid", "noaux_tc", groups=1, top_groups=1, normalise=False, scale=1.5),
]


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _plain(logits: Tensor, bias: Tensor, spec: RouterSpec) -> dict[int, float]:
    """Chosen experts and weights of one token, in float64, straight from the rules."""
    scores = logits.sigmoid() if spec.scoring == "sigmoid" else logits.softmax(-1)
    choice = scores + bias
    size = spec.experts // spec.groups
    groups = [choice[g * size : (g + 1) * size] for g in range(spec.groups)]
    best = 1 if spec.method == "group_limited_greedy" else 2
    rank = sorted(range(spec.groups), key=lambda g: -float(groups[g].sort(descending=True).values[:best].sum()))
    allowed = [e for g in rank[: spec.top_groups] for e in range(g * size, (g + 1) * size)]
    chosen = sorted(allowed, key=lambda e: -float(choice[e]))[: spec.top_k]
    total = sum(float(scores[e]) for e in chosen) if spec.normalise else 1.0
    return {e: float(scores[e]) / total * spec.scale for e in chosen}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.groups}")
def test_choice_and_weights_follow_the_rules(spec: RouterSpec) -> None:
    """The bias changes who is chosen, never the weights; groups left out never appear; best first."""
    gate, x = _randn(spec.experts, HIDDEN, seed=0) / 3, _randn(TOKENS, HIDDEN, seed=1)
    bias = _randn(spec.experts, seed=2) * 0.3 if spec.method == "noaux_tc" else None
    ids, weights = Router(spec, REFERENCE, pack(gate), bias).choose(x, 8)
    assert ids.shape == weights.shape == (TOKENS, spec.top_k)
    logits = x.double() @ gate.double().t()
    zero = torch.zeros(spec.experts)
    for token in range(TOKENS):
        expected = _plain(logits[token], zero if bias is None else bias, spec)
        assert list(expected) == ids[token].tolist()
        assert weights[token].tolist() == pytest.approx(list(expected.values()), rel=1e-4)


def test_negative_scores_do_not_revive_dropped_groups() -> None:
    """With biased scores below zero an expert outside the chosen groups still loses (it is −∞, not 0)."""
    spec = SPECS[2]
    bias = torch.full((spec.experts,), -5.0)
    ids, _ = Router(spec, REFERENCE, pack(torch.zeros(spec.experts, HIDDEN)), bias).choose(torch.ones(8, HIDDEN), 8)
    size = spec.experts // spec.groups
    assert all(len({int(e) // size for e in row}) <= spec.top_groups for row in ids)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.groups}")
def test_tokens_are_strangers(spec: RouterSpec) -> None:
    """A token's experts and weights have the same bits alone."""
    x, gate = _randn(TOKENS, HIDDEN, seed=1), pack(_randn(spec.experts, HIDDEN, seed=0))
    tile = narrowest_tile({(gate.inputs, gate.width): gate})
    router = Router(spec, REFERENCE, gate, None)
    ids, weights = router.choose(x, tile)
    for token in range(TOKENS):
        alone = torch.zeros(tile, HIDDEN)
        alone[3] = x[token]
        own_ids, own_weights = router.choose(alone, tile)
        assert torch.equal(own_ids[3], ids[token]) and torch.equal(own_weights[3], weights[token])
