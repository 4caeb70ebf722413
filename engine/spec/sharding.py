"""Which divisions of a model over cards fit: bytes of weights and cache on the fullest rank, as arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from engine.spec.model import ModelSpec

WeightFormat = Literal["bf16", "fp8", "int8", "int4"]  # int4: routed experts only, the rest int8

GIB: Final = 1 << 30
FP8_CAPABILITY: Final = (8, 9)  # the first cards with 8-bit float matrix units
CONTEXT: Final = GIB // 2  # of the driver and of libraries, per process
COLLECTIVES: Final = GIB // 2  # buffers of NCCL, with more than one rank
GRAPHS: Final = GIB  # captured decode steps
ACTIVATIONS: Final = GIB  # of one step
FP8_BLOCK: Final = 128  # inner sizes are cut at blocks that share a scale
_BYTES: Final[dict[WeightFormat, tuple[float, float]]] = {  # per value: routed experts, other matrices; with scales
    "bf16": (2.0, 2.0), "fp8": (1.001, 1.001), "int8": (1.01, 1.01), "int4": (0.5313, 1.01),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of accelerator, as its maker states it."""

    name: str
    memory: int  # bytes
    capability: tuple[int, int]
    bandwidth: float  # bytes per second


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks along each axis: heads and inner sizes, routed experts, layers."""

    tensor: int = 1
    expert: int = 1
    pipeline: int = 1

    @property
    def world(self) -> int:
        """Cards it takes."""
        return self.tensor * self.expert * self.pipeline


@dataclass(frozen=True, slots=True)
class RankBytes:
    """What the fullest rank holds."""

    weights: int
    per_token: int  # cache bytes of one token
    allowance: int  # context, collectives, graphs, activations

    def tokens(self, card: Card) -> int:
        """Tokens of cache that are left room for; 0 when not even the weights fit."""
        return max(0, card.memory - self.weights - self.allowance) // self.per_token


def served_format(spec: ModelSpec, card: Card) -> WeightFormat:
    """How a card holds a checkpoint's weights: FP8 blocks as they are where it multiplies them, else as int8."""
    if spec.fp8_block is None:
        return "bf16"
    return "fp8" if card.capability >= FP8_CAPABILITY else "int8"


def refusal(spec: ModelSpec, layout: Layout, wanted: WeightFormat) -> str:
    """Why a model cannot be divided like that; empty when it can."""
    tensor = layout.tensor
    if spec.num_heads % tensor:
        return f"{tensor} does not divide {spec.num_heads} heads"
    if spec.router.experts % layout.expert:
        return f"{layout.expert} does not divide {spec.router.experts} experts"
    if layout.pipeline > spec.num_layers:
        return f"only {spec.num_layers} layers"
    block = FP8_BLOCK if wanted == "fp8" else 32 if wanted == "int4" else 1
    for inner in (spec.expert_inner, spec.dense_inner):
        if tensor > 1 and inner % (tensor * block):
            return f"{inner} / {tensor} is no multiple of {block}"
    return ""


def rank_bytes(spec: ModelSpec, layout: Layout, wanted: WeightFormat) -> RankBytes:
    """Bytes of the fullest rank; the cache is in bfloat16 and every rank of a stage has all of its stage's."""
    stages = list(_stages(spec.num_layers, layout.pipeline))
    weights = max(_stage_bytes(spec, layout, wanted, stage) for stage in stages)
    allowance = CONTEXT + GRAPHS + ACTIVATIONS + (COLLECTIVES if layout.world > 1 else 0)
    return RankBytes(round(weights), 2 * max(map(len, stages)) * spec.latent_dim, allowance)


def feasible(
    spec: ModelSpec, card: Card, wanted: WeightFormat, world: int, least_tokens: int
) -> list[tuple[Layout, int]]:
    """Layouts over `world` cards that leave room for `least_tokens`, with the tokens they leave; most tokens first.

    The tensor axis stays within a node of eight.
    """
    found: list[tuple[Layout, int]] = []
    for tensor in (n for n in (1, 2, 4, 8) if world % n == 0):
        for pipeline in (n for n in range(1, world // tensor + 1) if (world // tensor) % n == 0):
            layout = Layout(tensor, world // tensor // pipeline, pipeline)
            if refusal(spec, layout, wanted):
                continue
            tokens = rank_bytes(spec, layout, wanted).tokens(card)
            if tokens >= least_tokens:
                found.append((layout, tokens))
    return sorted(found, key=lambda one: (-one[1], one[0].pipeline, one[0].expert))


def _stages(layers: int, count: int) -> Iterator[range]:
    base, more = divmod(layers, count)
    start = 0
    for index in range(count):
        end = start + base + (index < more)
        yield range(start, end)
        start = end


def _stage_bytes(spec: ModelSpec, layout: Layout, wanted: WeightFormat, stage: range) -> float:
    per_routed, per_other = _BYTES[wanted]
    table = 2.0 * spec.vocab_size * spec.hidden_size / layout.tensor  # embedding and head stay in 16 bits
    ends = (stage.start == 0) + (stage.stop == spec.num_layers and not (spec.tied and layout.pipeline == 1))
    total = ends * table
    for layer in stage:
        total += per_other * (_replicated(spec) + _divided(spec, layer) / layout.tensor)
        if not spec.is_dense(layer):
            experts = spec.router.experts * 3 * spec.hidden_size * spec.expert_inner
            total += (
                per_routed * experts / (layout.expert * layout.tensor) + 4.0 * spec.router.experts * spec.hidden_size
            )
    return total


def _replicated(spec: ModelSpec) -> int:
    """Values of a layer that every rank of a stage holds: the projections to the latents."""
    return spec.hidden_size * (spec.q_rank + spec.latent_dim)


def _divided(spec: ModelSpec, layer: int) -> int:
    """Values of a layer that the tensor axis divides, routed experts aside."""
    heads, query = spec.num_heads, spec.nope_dim + spec.rope_dim
    attention = heads * (
        (spec.q_rank or spec.hidden_size) * query
        + spec.kv_rank * (spec.nope_dim + spec.value_dim)
        + spec.value_dim * spec.hidden_size
    )
    inner = spec.dense_inner if spec.is_dense(layer) else spec.shared_experts * spec.expert_inner
    return attention + 3 * spec.hidden_size * inner
