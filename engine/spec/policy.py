"""Which number format each class of weights has, layer by layer: by name, from a file, or as a checkpoint says."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from engine.spec.compressed import Compressed
from engine.spec.errors import ConfigError
from engine.spec.model import ModelSpec

Format = Literal["none", "int8", "int4"]  # none: as the model's dtype has it
Kind = Literal["attention", "dense", "shared", "routed", "head"]

FORMATS: Final[tuple[Format, ...]] = ("none", "int8", "int4")
GROUPS: Final = (128, 64, 32)  # inputs that share a scale in int4
KINDS: Final[tuple[Kind, ...]] = ("attention", "dense", "shared", "routed", "head")
FILE: Final = "policy.json"  # in a checkpoint's directory
SCHEMA_VERSION: Final = 1

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Policy:
    """Formats by class, and exceptions by layer. Router, norms and the embedding table are never quantised."""

    attention: Format = "none"
    dense: Format = "none"  # the MLP of layers without experts
    shared: Format = "none"  # shared experts
    routed: Format = "none"
    head: Format = "none"
    exceptions: tuple[tuple[int, Kind, Format], ...] = ()  # (layer, class, format), in order

    def of(self, kind: Kind, layer: int) -> Format:
        """Format of one class in one layer; the head has no layer and ignores it."""
        for at, exceptional, wanted in self.exceptions:
            if (at, exceptional) == (layer, kind):
                return wanted
        return cast("Format", getattr(self, kind))

    def of_tensor(self, name: str) -> Format:
        """Format of the matrix with this published name."""
        kind, layer = unit_of(name)
        return self.of(kind, layer)

    @property
    def is_quantised(self) -> bool:
        """Whether any class is."""
        return any(getattr(self, kind) != "none" for kind in KINDS) or any(e[2] != "none" for e in self.exceptions)

    @property
    def name(self) -> str:
        """One word for the named policies, else all there is to say; equal names mean equal policies."""
        for known, policy in NAMED.items():
            if policy == self:
                return known
        words = [f"{kind}={getattr(self, kind)}" for kind in KINDS]
        return ",".join([*words, *(f"{layer}.{kind}={wanted}" for layer, kind, wanted in self.exceptions)])

    def with_layer(self, layer: int, kind: Kind, wanted: Format) -> Policy:
        """The same with one more exception (for the head: with another format)."""
        if kind == "head":
            return replace(self, head=wanted)
        kept = [e for e in self.exceptions if e[:2] != (layer, kind)]
        if getattr(self, kind) != wanted:
            kept.append((layer, kind, wanted))
        return replace(self, exceptions=tuple(sorted(kept)))

    def document(self) -> dict[str, Any]:
        """What a policy file holds."""
        layers: dict[str, dict[str, str]] = {}
        for layer, kind, wanted in self.exceptions:
            layers.setdefault(str(layer), {})[kind] = wanted
        found: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "formats": {kind: getattr(self, kind) for kind in KINDS},
        }
        return {**found, "layers": layers} if layers else found


DEFAULT: Final = Policy("none", "int8", "int8", "int8", "int8")  # what is known to be harmless
NAMED: Final[Mapping[str, Policy]] = {
    "none": Policy(),
    "int8": Policy("int8", "int8", "int8", "int8", "int8"),
    "int4": Policy("int8", "int8", "int8", "int4", "int8"),
}


def unit_of(name: str) -> tuple[Kind, int]:
    """Class and layer of a matrix by its published name; layer 0 for the head."""
    found = _LAYER.match(name)
    layer = int(found[1]) if found else 0
    if ".self_attn." in name:
        return "attention", layer
    if ".shared_experts." in name:
        return "shared", layer
    if ".experts." in name:
        return "routed", layer
    return ("dense", layer) if ".mlp." in name else ("head", 0)


def units(spec: ModelSpec) -> list[tuple[Kind, int]]:
    """Every class and layer a model has, from the input to the output."""
    found: list[tuple[Kind, int]] = []
    for layer in range(spec.num_layers):
        found.append(("attention", layer))
        if spec.is_dense(layer):
            found.append(("dense", layer))
            continue
        if spec.shared_experts:
            found.append(("shared", layer))
        found.append(("routed", layer))
    found.append(("head", 0))
    return found


def read_policy(path: Path, spec: ModelSpec) -> Policy:
    """A policy file. Raises ConfigError naming the file, the key and the nearest right one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the policy {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a policy is an object with the keys schema_version, formats and layers")
    body = cast("dict[str, Any]", document)
    _known(body, ("schema_version", "formats", "layers"), str(path))
    if body.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema_version is {body.get('schema_version')!r}; this engine reads {SCHEMA_VERSION}"
        )
    formats = _formats(body.get("formats", {}), f"{path}: formats")
    policy = replace(Policy(), **formats)
    layers = body.get("layers", {})
    if not isinstance(layers, dict):
        raise ConfigError(f"{path}: layers must be an object of layer numbers")
    for number, exceptions in cast("dict[str, Any]", layers).items():
        if not number.isdecimal() or int(number) >= spec.num_layers:
            raise ConfigError(f"{path}: layers.{number}: the model has layers 0 … {spec.num_layers - 1}")
        for kind, wanted in _formats(exceptions, f"{path}: layers.{number}").items():
            if kind == "head":
                raise ConfigError(f"{path}: layers.{number}.head: the head belongs to no layer; put it under formats")
            policy = policy.with_layer(int(number), kind, wanted)
    return policy


def _formats(found: object, where: str) -> dict[Kind, Format]:
    if not isinstance(found, dict):
        raise ConfigError(f"{where} must be an object of {', '.join(KINDS)}")
    body = cast("dict[str, Any]", found)
    _known(body, KINDS, where)
    for kind, wanted in body.items():
        if wanted not in FORMATS:
            raise ConfigError(f"{where}.{kind} is {wanted!r}; choose {', '.join(FORMATS)}")
    return cast("dict[Kind, Format]", body)


def _known(body: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for key in body:
        if key not in names:
            near = difflib.get_close_matches(key, list(names), 1)
            raise ConfigError(
                f"{where}: unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else _list(names))
            )


def _list(names: Iterable[str]) -> str:
    return f"known are {', '.join(names)}"


def resolve(quantization: str, model: Path, spec: ModelSpec) -> Policy:
    """The policy a setting means for a checkpoint: a name, a policy file, or with `auto` what the checkpoint says.

    A checkpoint says it by a policy.json beside its weights, or by holding whole numbers itself. FP8 blocks, which
    no CPU multiplies, become the default policy; for all others nothing has shown that it is harmless: they stay.
    """
    if quantization in NAMED:
        return NAMED[quantization]
    if quantization != "auto":
        return read_policy(Path(quantization), spec)
    if (model / FILE).exists():
        return read_policy(model / FILE, spec)
    if spec.compressed is not None:
        return of_units({unit: _held(spec.compressed, unit) for unit in units(spec)})
    return DEFAULT if spec.fp8_block is not None else Policy()


_MODULES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "attention": ("self_attn.o_proj", "self_attn.kv_b_proj", "self_attn.kv_a_proj_with_mqa"),
    "dense": ("mlp.gate_proj", "mlp.down_proj"),
    "shared": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.down_proj"),
    "routed": ("mlp.experts.0.gate_proj", "mlp.experts.0.down_proj"),
}


def _held(compressed: Compressed, unit: tuple[Kind, int]) -> Format:
    """The format that keeps what a checkpoint has of one unit: the narrower one where its modules differ."""
    kind, layer = unit
    names = ["lm_head"] if kind == "head" else [f"model.layers.{layer}.{name}" for name in _MODULES[kind]]
    schemes = [scheme for name in names if (scheme := compressed.scheme_of(name)) is not None]
    if not schemes:
        return "none"
    return "int4" if any(scheme.bits == 4 and scheme.group in GROUPS for scheme in schemes) else "int8"


def of_units(formats: Mapping[tuple[Kind, int], Format]) -> Policy:
    """The shortest policy that gives each class and layer its format: what most layers have, and exceptions."""
    policy = Policy()
    for kind in KINDS:
        found = [wanted for (other, _), wanted in formats.items() if other == kind]
        if found:
            policy = replace(policy, **{kind: max(FORMATS, key=found.count)})
    for (kind, layer), wanted in formats.items():
        if kind != "head":
            policy = policy.with_layer(layer, kind, wanted)
    return policy
