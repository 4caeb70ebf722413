"""The compressed-tensors kind of quantization_config: which modules of a checkpoint hold whole numbers, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, cast

from engine.spec.errors import CheckpointError

METHOD: Final = "compressed-tensors"
LAYOUTS: Final = ("int-quantized", "pack-quantized")


@dataclass(frozen=True, slots=True)
class Scheme:
    """One group of modules: symmetric whole numbers, a scale for each output channel or for `group` inputs of one."""

    targets: tuple[str, ...]
    bits: int
    group: int  # 0: one scale a channel


@dataclass(frozen=True, slots=True)
class Compressed:
    """All groups of a checkpoint."""

    schemes: tuple[Scheme, ...]
    ignored: tuple[str, ...]

    def scheme_of(self, module: str) -> Scheme | None:
        """How the linear module of this name is held; None: unquantised."""
        if _matches(module, self.ignored):
            return None
        return next((scheme for scheme in self.schemes if _matches(module, scheme.targets)), None)


def _matches(module: str, patterns: tuple[str, ...]) -> bool:
    """A pattern is the class Linear, a module's whole name or its end, or `re:` and a regular expression."""
    for pattern in patterns:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], module):
                return True
        elif pattern in ("Linear", module) or module.endswith(f".{pattern}"):
            return True
    return False


def parse(found: dict[str, Any], where: str) -> Compressed:
    """From a quantization_config. Raises CheckpointError naming the key for all but symmetric int8 and int4 weights."""

    def refuse(key: str, value: object, why: str) -> CheckpointError:
        return CheckpointError(f"{where}: {key} is {value!r}; {why}")

    status = found.get("quantization_status") or "compressed"
    if status != "compressed":
        raise refuse("quantization_status", status, "only compressed checkpoints hold what their config says")
    if found.get("kv_cache_scheme"):
        raise refuse("kv_cache_scheme", found["kv_cache_scheme"], "a quantised cache is not supported")
    sparsity = cast("dict[str, Any]", found.get("sparsity_config") or {})
    if sparsity.get("format", "dense") != "dense":
        raise refuse("sparsity_config", sparsity, "sparse weights are not supported")
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise refuse("config_groups", cast("object", groups), "an object with at least one group is needed")
    schemes: list[Scheme] = []
    for name, group in cast("dict[str, Any]", groups).items():
        layout = group.get("format") or found.get("format")
        if layout not in LAYOUTS:
            raise refuse(f"config_groups.{name}.format", layout, f"supported: {', '.join(LAYOUTS)}")
        schemes.append(_scheme(group, f"{where}: config_groups.{name}"))
    return Compressed(tuple(schemes), tuple(found.get("ignore") or ()))


def _scheme(group: dict[str, Any], where: str) -> Scheme:
    weights = cast("dict[str, Any]", group.get("weights") or {})
    rules = (
        ("type", weights.get("type", "int"), ("int",)),
        ("num_bits", weights.get("num_bits"), (4, 8)),
        ("symmetric", weights.get("symmetric", True), (True,)),
        ("dynamic", weights.get("dynamic", False), (False,)),
        ("strategy", weights.get("strategy"), ("channel", "group")),
        ("actorder", weights.get("actorder") or None, (None, "static", "weight")),
    )
    for key, value, allowed in rules:
        if value not in allowed:
            raise CheckpointError(f"{where}.weights.{key} is {value!r}; supported: {', '.join(map(str, allowed))}")
    size = weights.get("group_size") if weights["strategy"] == "group" else 0
    if not isinstance(size, int) or size < 0 or (weights["strategy"] == "group" and size == 0):
        raise CheckpointError(f"{where}.weights.group_size is {size!r}; a positive whole number is needed")
    targets = tuple(map(str, group.get("targets") or ()))
    for target in targets:
        if target.startswith("re:"):
            try:
                re.compile(target[3:])
            except re.error as error:
                raise CheckpointError(f"{where}.targets: {target!r} is no regular expression: {error}") from error
    return Scheme(targets, int(weights["num_bits"]), size)
