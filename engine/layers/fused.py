"""Decoder layers whose whole arithmetic is one call into compiled kernels, and the rows such a call works on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.kernels.cpu import structs
from engine.kernels.cpu.matrix import Matrix, Mlps
from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.layers.rotary import Rotary
from engine.spec.model import ModelSpec

_NONE = structs.Matrix()


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Attention as in engine.layers.mla, but absorb_k [heads, rank, nope], absorb_v [heads, value, rank]."""

    input_norm: Tensor
    q_norm: Tensor | None
    kv_norm: Tensor
    down: Matrix
    q_up: Matrix | None
    expand: Matrix
    absorb_k: Matrix
    absorb_v: Matrix
    out: Matrix


@dataclass(frozen=True, slots=True)
class ForwardWeights:
    """One layer's feed-forward part: a plain MLP stands in `shared`, without router and routed experts."""

    norm: Tensor
    shared: Mlps | None
    router: Matrix | None = None
    bias: Tensor | None = None
    routed: Mlps | None = None


class FusedLayer:
    """A layer's weights together with what the kernels are told about them."""

    def __init__(self, spec: ModelSpec, attention: AttentionWeights, forward: ForwardWeights) -> None:
        self._kept = (attention, forward)  # the kernels hold addresses only
        self.has_experts = forward.routed is not None
        self.argument = structs.Layer(_attention(spec, attention), _forward(spec, forward))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices."""
        attention, forward = self._kept
        single = (
            attention.down,
            attention.q_up,
            attention.expand,
            attention.absorb_k,
            attention.absorb_v,
            attention.out,
        )
        stacks = [m for mlps in (forward.shared, forward.routed) if mlps for m in mlps.matrices]
        return sum(m.nbytes for m in (*single, forward.router, *stacks) if m is not None)


def _attention(spec: ModelSpec, w: AttentionWeights) -> structs.Attention:
    return structs.Attention(
        input_norm=w.input_norm.data_ptr(),
        q_norm=None if w.q_norm is None else w.q_norm.data_ptr(),
        kv_norm=w.kv_norm.data_ptr(),
        down=w.down.argument,
        q_up=_NONE if w.q_up is None else w.q_up.argument,
        expand=w.expand.argument,
        absorb_k=w.absorb_k.argument,
        absorb_v=w.absorb_v.argument,
        out=w.out.argument,
        heads=spec.num_heads,
        nope=spec.nope_dim,
        rope=spec.rope_dim,
        rank=spec.kv_rank,
        values=spec.value_dim,
        eps=spec.rms_eps,
        scale=spec.softmax_scale,
    )


def _forward(spec: ModelSpec, w: ForwardWeights) -> structs.FeedForward:
    shared = [m.argument for m in w.shared.matrices] if w.shared else [_NONE] * 3
    routed = [m.argument for m in w.routed.matrices] if w.routed else [_NONE] * 3
    router = _NONE if w.router is None else w.router.argument
    return structs.FeedForward(w.norm.data_ptr(), router, *routed, *shared, router_rule(spec, w.bias), spec.rms_eps)


def router_rule(spec: ModelSpec, bias: Tensor | None) -> structs.Router:
    """The kernels' words for how tokens choose experts; `bias` must outlive it."""
    rule = spec.router
    limited = rule.method != "greedy"
    return structs.Router(
        bias=None if bias is None else bias.data_ptr(),
        experts=rule.experts,
        top_k=rule.top_k,
        groups=rule.groups if limited else 1,
        top_groups=rule.top_groups if limited else 1,
        scale=rule.scale,
        sigmoid=rule.scoring == "sigmoid",
        normalise=rule.normalise,
        two_best=rule.method == "noaux_tc",
    )


class FusedRows:
    """A step's rows in the kernels' order: prompt rows first, then generated ones."""

    def __init__(self, batch: StepBatch, cache: LatentCache, rotary: Rotary, threads: int) -> None:
        prompts = [s for s in batch.segments if not s.generated and s.length]
        generated = [s for s in batch.segments if s.generated and s.length]
        self.order = _order([*prompts, *generated], batch.token_ids.numel())  # None: as in the batch
        take = (lambda x: x) if self.order is None else (lambda x: x[self.order])
        self.token_ids: Tensor = take(batch.token_ids)
        positions = take(batch.positions).contiguous()
        cos, sin = rotary.at(positions)
        slots = take(batch.slots).contiguous()
        first = sum(s.length for s in prompts)
        tables = [s.block_table.contiguous() for s in (*prompts, *generated)]
        parts = _parts(prompts, tables)
        count = positions.numel() - first
        repeated = [
            t for s, t in zip(generated, tables[len(prompts) :], strict=True) for t in [t.data_ptr()] * s.length
        ]
        addresses = np.array(repeated, dtype=np.uint64)
        self._kept = (cos, sin, slots, positions, tables, parts, addresses)
        self.argument = structs.Batch(
            *(positions.numel(), len(prompts), count, cos.data_ptr(), sin.data_ptr(), slots.data_ptr()),
            *(ctypes.addressof(parts), positions.data_ptr() + 8 * first, addresses.ctypes.data, cache.block_size),
            *(cache.layers[0].dtype == torch.float16, threads),
        )

    def in_batch_order(self, x: Tensor) -> Tensor:
        """Rows of x [T, …] as the step's flat batch has them."""
        if self.order is None:
            return x
        y = torch.empty_like(x)
        y[self.order] = x
        return y


def _order(segments: list[Segment], total: int) -> Tensor | None:
    place = 0
    for segment in segments:
        if segment.start != place:
            return torch.cat([torch.arange(s.start, s.start + s.length) for s in segments])
        place += segment.length
    return None if place == total else torch.arange(place)


def _parts(prompts: list[Segment], tables: list[Tensor]) -> ctypes.Array[structs.PromptPart]:
    parts = (structs.PromptPart * max(1, len(prompts)))()
    start = 0
    for index, segment in enumerate(prompts):
        parts[index] = structs.PromptPart(start, segment.length, segment.position, tables[index].data_ptr())
        start += segment.length
    return parts
