"""The router's choice and the alignment of chosen rows to blocks of one expert: no step of it waits for the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.spec.model import RouterSpec

_NEVER = tl.constexpr(float("-inf"))
_PAIRS = 1024  # pairs looked at together by one program of the alignment


@triton.jit
def _choose(
    logits_ptr, bias_ptr, ids_ptr, weights_ptr, experts, size, scale,
    GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, TOP_K: tl.constexpr, SIGMOID: tl.constexpr,
    HAS_BIAS: tl.constexpr, TWO_BEST: tl.constexpr, NORMALISE: tl.constexpr,
    G: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One token: experts lie as [G groups, S members], both padded to powers of two."""
    row = tl.program_id(0)
    group = tl.arange(0, G)[:, None]
    member = tl.arange(0, S)[None, :]
    known = (group < GROUPS) & (member < size)
    at = group * size + member
    logits = tl.load(logits_ptr + row * experts + at, mask=known, other=_NEVER).to(tl.float32)
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
    else:
        powers = tl.exp(logits - tl.max(logits))
        scores = powers / tl.sum(powers)
    choice = scores
    if HAS_BIAS:
        choice += tl.load(bias_ptr + at, mask=known, other=0.0)
    choice = tl.where(known, choice, _NEVER)
    if TOP_GROUPS < GROUPS:
        best = tl.max(choice, axis=1)
        if TWO_BEST:
            first = tl.argmax(choice, axis=1, tie_break_left=True)
            best += tl.max(tl.where(member == first[:, None], _NEVER, choice), axis=1)
        lane = tl.arange(0, G)
        kept = lane < 0
        for _ in tl.static_range(TOP_GROUPS):
            winner = tl.argmax(best, axis=0, tie_break_left=True)
            kept = kept | (lane == winner)
            best = tl.where(lane == winner, _NEVER, best)
        choice = tl.where(kept[:, None], choice, _NEVER)
    flat = tl.reshape(choice, [G * S])
    plain = tl.reshape(scores, [G * S])
    index = tl.arange(0, G * S)
    slot = tl.arange(0, K)
    chosen = tl.zeros([K], dtype=tl.int32)
    weights = tl.zeros([K], dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        winner = tl.argmax(flat, axis=0, tie_break_left=True)
        weights = tl.where(slot == k, tl.sum(tl.where(index == winner, plain, 0.0)), weights)
        chosen = tl.where(slot == k, (winner // S) * size + winner % S, chosen)
        flat = tl.where(index == winner, _NEVER, flat)
    if NORMALISE:
        weights = weights / (tl.sum(weights) + 1e-20)
    tl.store(ids_ptr + row * TOP_K + slot, chosen, mask=slot < TOP_K)
    tl.store(weights_ptr + row * TOP_K + slot, weights * scale, mask=slot < TOP_K)


def choose(logits: Tensor, bias: Tensor | None, spec: RouterSpec) -> tuple[Tensor, Tensor]:
    """Logits float32 [T, experts] → expert ids int32 [T, k], best first, ties to the lowest id, and weights float32."""
    tokens, experts = logits.shape
    limited = spec.method != "greedy"
    groups = spec.groups if limited else 1
    ids = torch.empty(tokens, spec.top_k, dtype=torch.int32, device=logits.device)
    weights = torch.empty(tokens, spec.top_k, dtype=torch.float32, device=logits.device)
    _choose[(tokens,)](
        logits, logits if bias is None else bias, ids, weights, experts, experts // groups, spec.scale,
        GROUPS=groups, TOP_GROUPS=spec.top_groups if limited else 1, TOP_K=spec.top_k,
        SIGMOID=spec.scoring == "sigmoid", HAS_BIAS=bias is not None, TWO_BEST=spec.method == "noaux_tc",
        NORMALISE=spec.normalise, G=triton.next_power_of_2(groups), S=triton.next_power_of_2(experts // groups),
        K=triton.next_power_of_2(spec.top_k),
    )  # fmt: skip
    return ids, weights


@dataclass(frozen=True, slots=True)
class Aligned:
    """Pairs (token × top_k + choice) sorted by expert, each expert's padded to whole blocks."""

    pairs: Tensor  # int32 [capacity]; the number of pairs where nothing lies
    experts: Tensor  # int32 [capacity / block]: whose pairs a block holds; -1 where none
    block: int


@triton.jit
def _count(ids_ptr, counts_ptr, total, STEP: tl.constexpr):
    expert = tl.program_id(0)
    found = tl.zeros([STEP], dtype=tl.int32)
    for start in range(0, total, STEP):
        at = start + tl.arange(0, STEP)
        found += (tl.load(ids_ptr + at, mask=at < total, other=-1) == expert).to(tl.int32)
    tl.store(counts_ptr + expert, tl.sum(found))


@triton.jit
def _place(
    ids_ptr, counts_ptr, pairs_ptr, experts_ptr, total, experts,
    BLOCK: tl.constexpr, STEP: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """One expert: its pairs in their order, from the end of the blocks of the experts before it."""
    expert = tl.program_id(0)
    lane = tl.arange(0, E)
    blocks = (tl.load(counts_ptr + lane, mask=lane < experts, other=0) + BLOCK - 1) // BLOCK
    first = tl.sum(tl.where(lane < expert, blocks, 0))
    own = tl.sum(tl.where(lane == expert, blocks, 0))
    for index in range(own):
        tl.store(experts_ptr + first + index, expert)
    place = first * BLOCK
    for start in range(0, total, STEP):
        at = start + tl.arange(0, STEP)
        mine = (tl.load(ids_ptr + at, mask=at < total, other=-1) == expert).to(tl.int32)
        before = tl.cumsum(mine, axis=0) - mine
        tl.store(pairs_ptr + place + before, at, mask=mine != 0)
        place += tl.sum(mine)


def align(ids: Tensor, experts: int, block: int) -> Aligned:
    """Ids int32 [T, k] → rows of one expert in whole blocks of `block`; shapes depend on T and `experts` alone.

    An id outside 0 … experts - 1 belongs to another rank: its pairs lie nowhere.
    """
    total = ids.numel()
    most = min(total, experts)  # experts that can have rows: each wastes less than a block
    capacity = triton.cdiv(total + most * (block - 1), block) * block
    counts = torch.empty(experts, dtype=torch.int32, device=ids.device)
    pairs = torch.full((capacity,), total, dtype=torch.int32, device=ids.device)
    owners = torch.full((capacity // block,), -1, dtype=torch.int32, device=ids.device)
    step = min(_PAIRS, triton.next_power_of_2(max(total, 16)))
    _count[(experts,)](ids, counts, total, STEP=step)
    _place[(experts,)](
        ids, counts, pairs, owners, total, experts, BLOCK=block, STEP=step, E=triton.next_power_of_2(experts)
    )
    return Aligned(pairs, owners, block)
