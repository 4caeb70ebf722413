"""Norm and router kernels against torch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from engine.kernels.cpu import structs
from engine.kernels.cpu.library import Library
from engine.kernels.reference import rms_norm
from tests.engine.compiled import BUILDS, library

METHODS = ["greedy", "group_limited_greedy", "noaux_tc"]


@pytest.fixture(scope="module", params=BUILDS)
def kernels(request: pytest.FixtureRequest) -> Library:
    """Each build in turn."""
    return library(request.config, request.param)


@pytest.mark.parametrize("width", [1, 15, 16, 40, 1024])
def test_norm(kernels: Library, width: int) -> None:
    """Norms of any width."""
    x, weight = torch.randn(9, width), torch.randn(width)
    torch.testing.assert_close(kernels.norm(x, weight, 1e-6), rms_norm(x, weight, 1e-6), rtol=1e-5, atol=1e-6)


def slow_choice(logits: Tensor, method: str, bias: Tensor, *, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """Two of four groups and four of sixteen experts, as the model's definition has it, weights not normalised."""
    scores = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)
    choice = scores + bias if method == "noaux_tc" else scores.clone()
    if method != "greedy":
        groups = choice.view(-1, 4, 4)
        worth = groups.topk(2, -1).values.sum(-1) if method == "noaux_tc" else groups.amax(-1)
        kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, worth.topk(2, -1).indices, True)
        choice = groups.masked_fill(~kept[:, :, None], float("-inf")).view(choice.shape)
    ids = choice.topk(4, -1).indices
    return ids, scores.gather(1, ids)


def rule_of(method: str, bias: Tensor, *, sigmoid: bool, normalise: bool) -> structs.Router:
    """The same in the kernels' words."""
    limited = method != "greedy"
    address = bias.data_ptr() if method == "noaux_tc" else None
    groups = (4, 2) if limited else (1, 1)
    return structs.Router(address, 16, 4, *groups, 2.5, sigmoid, normalise, method == "noaux_tc")


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_choice_of_experts(kernels: Library, method: str, sigmoid: bool, normalise: bool) -> None:
    """Ids in order and weights, with negative biases among them."""
    generator = torch.Generator().manual_seed(3)
    logits, bias = torch.randn(50, 16, generator=generator), torch.randn(16, generator=generator)
    ids, weights = kernels.route(rule_of(method, bias, sigmoid=sigmoid, normalise=normalise), logits)
    right_ids, right = slow_choice(logits, method, bias, sigmoid=sigmoid)
    assert torch.equal(ids, right_ids)
    right = right / (right.sum(-1, keepdim=True) + 1e-20) if normalise else right
    torch.testing.assert_close(weights, right * 2.5, rtol=1e-5, atol=1e-7)


def test_ties_go_to_the_lowest_id(kernels: Library) -> None:
    """Equal scores are taken from the left."""
    ids, _ = kernels.route(rule_of("greedy", torch.zeros(16), sigmoid=True, normalise=True), torch.zeros(2, 16))
    assert ids.tolist() == [[0, 1, 2, 3]] * 2


def test_structures_have_the_sizes_of_the_sources(kernels: Library) -> None:
    """ctypes and the compiler agree on every structure."""
    sizes = (ctypes.c_int64 * 9)()
    count = kernels.sizes(sizes)
    mirrored = [structs.Matrix, structs.Operand, structs.Routing, structs.Router]
    mirrored += [structs.Attention, structs.FeedForward, structs.PromptPart, structs.Batch, structs.Draw]
    assert list(sizes[:count]) == [ctypes.sizeof(structure) for structure in mirrored]
