"""A checkpoint kept open beside its model, so that one part after the other can be tried in another number format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from engine.modeling.deepseek import Model
from engine.modeling.fused import FusedModel
from engine.modeling.loader import FusedBuilder, Loaded, ReferenceBuilder, opened
from engine.spec.config import EngineConfig
from engine.spec.policy import Policy


@dataclass(frozen=True, slots=True)
class Workbench:
    """The model as `config` says, and whatever is wanted of it in other formats; parts alike are shared, not copied."""

    base: Loaded
    builder: FusedBuilder | ReferenceBuilder

    @torch.inference_mode()
    def under(self, policy: Policy) -> Loaded:
        """The model under another policy: only layers that it changes are made anew."""
        old, base, builder = self.builder.policy, self.base, replace(self.builder, policy=policy)
        changed = [i for i in range(base.spec.num_layers) if not _same(old, policy, i)]
        numerics = f"{base.numerics}:{policy.name}"
        if isinstance(builder, FusedBuilder) and isinstance(base, FusedModel):
            parts = builder.parts()
            fused = {i: parts.layer(i) for i in changed}
            head = base.head if old.head == policy.head else parts.head()
            layers = tuple(fused.get(i, layer) for i, layer in enumerate(base.layers))
            return replace(base, layers=layers, head=head, numerics=numerics)
        assert isinstance(builder, ReferenceBuilder) and isinstance(base, Model)
        made = {i: builder.layer(i) for i in changed}
        packed = base.head if old.head == policy.head else builder.head()
        plain = tuple(made.get(i, layer) for i, layer in enumerate(base.layers))
        return replace(base, layers=plain, head=packed, numerics=numerics)


def _same(one: Policy, other: Policy, layer: int) -> bool:
    return all(one.of(kind, layer) == other.of(kind, layer) for kind in ("attention", "dense", "shared", "routed"))


@contextmanager
def workbench(config: EngineConfig) -> Iterator[Workbench]:
    """Load the model and keep its files open. Raises as loader.load does."""
    with opened(config) as builder:
        yield Workbench(builder.build(), builder)
