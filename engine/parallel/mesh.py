"""Where a rank stands: its place along the tensor, expert and pipeline axes."""

from __future__ import annotations

from dataclasses import dataclass

from engine.spec.config import EngineConfig
from engine.spec.errors import ConfigError
from engine.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Axis:
    """One rank's place along one axis."""

    index: int = 0
    size: int = 1

    def share(self, count: int) -> range:
        """This place's part of `count` things, as even as can be; earlier places have one more."""
        base, more = divmod(count, self.size)
        start = self.index * base + min(self.index, more)
        return range(start, start + base + (self.index < more))


@dataclass(frozen=True, slots=True)
class Place:
    """Rank = (pipeline · experts + expert) · tensors + tensor: those who talk most are next to each other."""

    tensor: Axis = Axis()
    expert: Axis = Axis()
    pipeline: Axis = Axis()

    @property
    def rank(self) -> int:
        """Of all ranks."""
        tensor, expert = self.tensor, self.expert
        return (self.pipeline.index * expert.size + expert.index) * tensor.size + tensor.index

    @property
    def is_first(self) -> bool:
        """Holds the embedding."""
        return self.pipeline.index == 0

    @property
    def is_last(self) -> bool:
        """Holds the head."""
        return self.pipeline.index == self.pipeline.size - 1


ALONE = Place()


def place_of(rank: int, config: EngineConfig) -> Place:
    """The place of rank number `rank`, 0 … config.world_size - 1."""
    rest, tensor = divmod(rank, config.tensor_parallel_size)
    pipeline, expert = divmod(rest, config.expert_parallel_size)
    return Place(
        Axis(tensor, config.tensor_parallel_size),
        Axis(expert, config.expert_parallel_size),
        Axis(pipeline, config.pipeline_parallel_size),
    )


def members(place: Place, axis: str) -> tuple[int, ...]:
    """The ranks that differ from `place` along one axis only, in order: the group it talks to along that axis."""
    found: list[int] = []
    own: Axis = getattr(place, axis)
    for index in range(own.size):
        axes = {name: getattr(place, name) for name in ("tensor", "expert", "pipeline")}
        found.append(Place(**(axes | {axis: Axis(index, own.size)})).rank)
    return tuple(found)


def check_divides(spec: ModelSpec, config: EngineConfig) -> None:
    """ConfigError naming the setting, the model's number it does not divide, and what would."""
    tensors, experts, stages = (
        config.tensor_parallel_size, config.expert_parallel_size, config.pipeline_parallel_size,
    )  # fmt: skip
    divided = [("num_attention_heads", spec.num_heads)]
    if spec.dense_layers:
        divided.append(("intermediate_size", spec.dense_inner))
    if spec.dense_layers < spec.num_layers:
        divided.append(("moe_intermediate_size", spec.expert_inner))
    for name, count in divided:
        if count % tensors:
            raise ConfigError(
                f"tensor_parallel_size is {tensors}, which does not divide {name} ({count}); {_fits(count)}"
            )
    if spec.router.experts % experts:
        raise ConfigError(
            f"expert_parallel_size is {experts}, which does not divide the {spec.router.experts} routed experts; "
            f"{_fits(spec.router.experts)}"
        )
    if stages > spec.num_layers:
        raise ConfigError(f"pipeline_parallel_size is {stages}, but the model has only {spec.num_layers} layers")


def _fits(count: int) -> str:
    return "choose one of " + ", ".join(str(n) for n in range(1, 9) if count % n == 0)
