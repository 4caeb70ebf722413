"""The next token of each row: the largest logit / temperature + Gumbel noise, with the engine's own noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

_LANES = tl.constexpr(4)
_NEVER = tl.constexpr(float("-inf"))
_BLOCK = 1024  # vocabulary ids of one program


@dataclass(frozen=True, slots=True)
class Draws:
    """What decides each row's draw, on the device."""

    temperature: Tensor  # float64 [T]; 0: the largest logit
    address: Tensor  # int64 [T, 3]: seed, choice, position


@triton.jit
def _best(logits_ptr, temperature_ptr, address_ptr, scores_ptr, ids_ptr, vocab, BLOCK: tl.constexpr):
    """One row and BLOCK ids: the best of them, ties to the lowest id."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    at = first + tl.arange(0, BLOCK)
    score = tl.load(logits_ptr + row * vocab + at, mask=at < vocab, other=_NEVER).to(tl.float64)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0:
        seed = tl.load(address_ptr + row * 3)
        choice = tl.load(address_ptr + row * 3 + 1)
        position = tl.load(address_ptr + row * 3 + 2)
        zero = tl.zeros([BLOCK // _LANES], dtype=tl.uint32)
        counter = (first // _LANES + tl.arange(0, BLOCK // _LANES)).to(tl.uint32)
        w0, w1, w2, w3 = philox_impl(
            counter, zero + (position & 0xFFFFFFFF).to(tl.uint32), zero + choice.to(tl.uint32),
            zero + ((position >> 32) & 0xFFFFFFFF).to(tl.uint32), (seed & 0xFFFFFFFF).to(tl.uint32),
            ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32), 10,
        )  # fmt: skip
        words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
        uniform = (words.to(tl.float64) + 0.5) * 2.3283064365386963e-10
        score = score / temperature - tl.log(-tl.log(uniform))
    best = tl.max(score, axis=0)
    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(scores_ptr + place, best)
    tl.store(ids_ptr + place, first + tl.argmax(score, axis=0, tie_break_left=True))


@triton.jit
def _winner(scores_ptr, ids_ptr, tokens_ptr, parts, PARTS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PARTS)
    score = tl.load(scores_ptr + row * parts + at, mask=at < parts, other=_NEVER)
    part = tl.argmax(score, axis=0, tie_break_left=True)
    tl.store(tokens_ptr + row, tl.load(ids_ptr + row * parts + part).to(tl.int64))


def draw(logits: Tensor, draws: Draws) -> Tensor:
    """Logits float32 [T, vocab], −∞ where an id may not be drawn → token ids int64 [T]."""
    rows, vocab = logits.shape
    parts = triton.cdiv(vocab, _BLOCK)
    scores = torch.empty(rows, parts, dtype=torch.float64, device=logits.device)
    ids = torch.empty(rows, parts, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        _best[(rows, parts)](logits, draws.temperature, draws.address, scores, ids, vocab, BLOCK=_BLOCK)
        _winner[(rows,)](scores, ids, tokens, parts, PARTS=triton.next_power_of_2(parts))
    return tokens
