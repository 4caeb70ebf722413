"""What a token leaves in the cache, and its turned queries: norm, rotation and cache write in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _turn(x_ptr, cos_ptr, sin_ptr, at, inside):
    """Neighbouring pairs rotated; `sin` has its sign set per element."""
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(x_ptr + (at ^ 1), mask=inside, other=0.0).to(tl.float32)
    return x * tl.load(cos_ptr + at, mask=inside, other=0.0) + other * tl.load(sin_ptr + at, mask=inside, other=0.0)


@triton.jit
def _remember(
    kv_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    cache_ptr,
    stride,
    eps,
    rank,
    rope,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    at = tl.arange(0, RANK)
    inside = at < rank
    x = tl.load(kv_ptr + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    latent = x * (1.0 / tl.sqrt(tl.sum(x * x) / rank + eps)) * tl.load(weight_ptr + at, mask=inside, other=0.0)
    place = cache_ptr + slot * (rank + rope)
    tl.store(place + at, latent.to(cache_ptr.dtype.element_ty), mask=inside)
    part = tl.arange(0, ROPE)
    turned = _turn(kv_ptr + row * stride + rank, cos_ptr + row * rope, sin_ptr + row * rope, part, part < rope)
    tl.store(place + rank + part, turned.to(cache_ptr.dtype.element_ty), mask=part < rope)


@triton.jit
def _turn_queries(
    q_ptr, cos_ptr, sin_ptr, y_ptr, stride, head_stride, y_stride, y_head_stride, rope, ROPE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.arange(0, ROPE)
    turned = _turn(
        q_ptr + row * stride + head * head_stride, cos_ptr + row * rope, sin_ptr + row * rope, part, part < rope
    )
    at = row * y_stride + head * y_head_stride + part
    tl.store(y_ptr + at, turned.to(y_ptr.dtype.element_ty), mask=part < rope)


def remember(kv: Tensor, norm: Tensor, eps: float, turn: tuple[Tensor, Tensor], slots: Tensor, cache: Tensor) -> None:
    """kv [T, kv_rank + rope] (rows may be strided) → the rows `slots` int64 [T] of the cache [slots, kv_rank + rope].

    `turn` is cos and ±sin, float32 [T, rope].
    """
    cos, sin = turn
    rank, rope = norm.numel(), cos.shape[1]
    if kv.shape[0]:
        _remember[(kv.shape[0],)](
            kv, norm, cos, sin, slots, cache, kv.stride(0), eps, rank, rope,
            RANK=triton.next_power_of_2(rank), ROPE=triton.next_power_of_2(rope),
        )  # fmt: skip


def turn_queries(q: Tensor, turn: tuple[Tensor, Tensor], out: Tensor) -> None:
    """q [T, heads, rope] → out [T, heads, rope], both views whose last axis is contiguous."""
    cos, sin = turn
    if q.shape[0]:
        _turn_queries[(q.shape[0], q.shape[1])](
            q, cos, sin, out, q.stride(0), q.stride(1), out.stride(0), out.stride(1), q.shape[2],
            ROPE=triton.next_power_of_2(q.shape[2]),
        )  # fmt: skip
