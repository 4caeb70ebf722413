"""Which part of each named tensor a rank holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.parallel.mesh import Place
from engine.spec.model import ModelSpec

_ROWS = ("q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
_COLUMNS = ("o_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows (dim 0) or columns (dim 1) `span` of a tensor."""

    dim: int
    span: range


def part_of(name: str, spec: ModelSpec, place: Place) -> Part | None:
    """The part of a matrix that `place` holds along the tensor axis; None: all of it.

    Heads, inner sizes and the vocabulary are divided; latent projections, norms and routers are held by everybody.
    """
    words = name.split(".")
    kind = words[-2] if words[-1] == "weight" else ""
    is_query = kind == "q_proj" or kind in _ROWS
    if place.tensor.size == 1 or not (is_query or kind in _COLUMNS):
        return None
    span = place.tensor.share(_count(name, kind, spec))
    width = _width(kind, spec)
    return Part(1 if kind in _COLUMNS else 0, range(span.start * width, span.stop * width))


def _count(name: str, kind: str, spec: ModelSpec) -> int:
    """How many things are divided: heads, inner values or vocabulary ids."""
    if kind in ("lm_head", "embed_tokens"):
        return spec.vocab_size
    if kind in ("q_proj", "q_b_proj", "kv_b_proj", "o_proj"):
        return spec.num_heads
    if ".shared_experts." in name:
        return spec.shared_experts * spec.expert_inner
    return spec.expert_inner if ".experts." in name else spec.dense_inner


def _width(kind: str, spec: ModelSpec) -> int:
    """Rows or columns of one of them."""
    widths = {
        "q_proj": spec.nope_dim + spec.rope_dim,
        "q_b_proj": spec.nope_dim + spec.rope_dim,
        "kv_b_proj": spec.nope_dim + spec.value_dim,
        "o_proj": spec.value_dim,
    }
    return widths.get(kind, 1)


def local_spec(spec: ModelSpec, place: Place) -> ModelSpec:
    """The dimensions of what `place` computes: its heads."""
    return replace(spec, num_heads=len(place.tensor.share(spec.num_heads)))
