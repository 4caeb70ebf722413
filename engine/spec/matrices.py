"""Every weight matrix as the compiled kernels hold it: its class, layer and shape, and its bytes in a format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.spec.model import ModelSpec
from engine.spec.policy import GROUPS, Format, Kind

BLOCK: Final = 64  # output columns that packed weights are padded to


@dataclass(frozen=True, slots=True)
class Held:
    """`count` matrices [outputs, inputs] of one class in one layer."""

    kind: Kind
    layer: int
    count: int
    outputs: int
    inputs: int

    @property
    def values(self) -> int:
        """Number of weights."""
        return self.count * self.outputs * self.inputs

    def nbytes(self, wanted: Format, width: int) -> int:
        """Bytes in a format, scales and padding included; `width` is that of an unquantised value."""
        padded = self.outputs + -self.outputs % BLOCK
        if wanted == "none":
            return self.values * width
        group = group_of(self.inputs) if wanted == "int4" else 0
        if group:
            return self.count * padded * (self.inputs // 2 + 2 * self.inputs // group)
        return self.count * padded * (self.inputs + -self.inputs % 4 + 8)  # a float32 scale, an int32 compensation


def group_of(inputs: int) -> int:
    """The largest group that divides `inputs`; 0: such a matrix cannot be int4 and becomes int8."""
    return next((group for group in GROUPS if inputs % group == 0), 0)


def matrices(spec: ModelSpec) -> Iterator[Held]:
    """All that a policy decides about; kv_b counts twice, in expanded and in absorbed form."""
    for layer in range(spec.num_layers):
        yield from _attention(spec, layer)
        if spec.is_dense(layer):
            yield from _mlp("dense", layer, 1, spec.hidden_size, spec.dense_inner)
            continue
        if spec.shared_experts:
            yield from _mlp("shared", layer, 1, spec.hidden_size, spec.expert_inner * spec.shared_experts)
        yield from _mlp("routed", layer, spec.router.experts, spec.hidden_size, spec.expert_inner)
    yield Held("head", 0, 1, spec.vocab_size, spec.hidden_size)


def _attention(spec: ModelSpec, layer: int) -> Iterator[Held]:
    heads, rank = spec.num_heads, spec.kv_rank
    query = heads * (spec.nope_dim + spec.rope_dim)
    shapes = [
        (1, (spec.q_rank or query) + spec.latent_dim, spec.hidden_size),
        (1, heads * (spec.nope_dim + spec.value_dim), rank),
        (heads, rank, spec.nope_dim),
        (heads, spec.value_dim, rank),
        (1, spec.hidden_size, heads * spec.value_dim),
    ]
    if spec.q_rank:
        shapes.append((1, query, spec.q_rank))
    return (Held("attention", layer, *shape) for shape in shapes)


def _mlp(kind: Kind, layer: int, count: int, hidden: int, inner: int) -> Iterator[Held]:
    yield Held(kind, layer, 2 * count, inner, hidden)
    yield Held(kind, layer, count, hidden, inner)
