"""Writes a quantised checkpoint: whole numbers and scales as compressed-tensors has them, shard by shard."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.modeling.checkpoint import INDEX, Entry, Reader, check_entries, file_entries, open_reader, read_entries
from engine.modeling.tensors import expected_shapes
from engine.quant import compressed, int4, int8
from engine.spec.compressed import METHOD
from engine.spec.errors import CheckpointError
from engine.spec.matrices import group_of
from engine.spec.model import ModelSpec
from engine.spec.policy import FILE, Policy

SHARD: Final = 1 << 30  # bytes of source tensors in one file
_KEPT: Final = {"F32": torch.float32, "F16": torch.float16}  # all other types become bfloat16
_SKIPPED: Final = {FILE, INDEX, "config.json"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Target:
    """How one matrix is written: bits, and inputs that share a scale (0: all of a channel)."""

    bits: int
    group: int


def target_of(name: str, shape: tuple[int, ...], policy: Policy) -> _Target | None:
    """None for what stays as it is: norms, router, embedding, and whatever the policy leaves."""
    is_matrix = name.endswith("_proj.weight") or name == "lm_head.weight"
    wanted = policy.of_tensor(name) if is_matrix else "none"
    if wanted == "none":
        return None
    group = group_of(shape[-1]) if wanted == "int4" else 0
    return _Target(4, group) if group else _Target(8, 0)


def write_checkpoint(source: Path, spec: ModelSpec, policy: Policy, out: Path, say: Say) -> int:
    """Write everything that serving needs to `out`; returns the bytes of its weights. Whole shards found are kept."""
    entries = read_entries(source)
    shapes = expected_shapes(spec)
    check_entries(entries, shapes, spec, source)
    out.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(entries))
    listed: dict[str, str] = {}
    total = 0
    with open_reader(entries, spec) as reader:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            if not _is_whole(out / file):
                tensors = dict(pair for name in names for pair in _converted(name, reader, entries, shapes, policy))
                part = out / f"{file}.part"
                save_file(tensors, str(part), metadata={"format": "pt"})
                part.chmod(0o644)  # as any other file: what serves it may be another user
                part.replace(out / file)
                del tensors
            listed |= dict.fromkeys(_names(out / file), file)
            total += (out / file).stat().st_size
            say(f"wrote {file} ({number} of {len(shards)})")
    if len(shards) > 1:
        _write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": listed})
    _write_config(source, spec, policy, out)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in _SKIPPED:
            shutil.copyfile(path, out / path.name)
    _write_json(out / FILE, policy.document())
    return total


def _shards(entries: dict[str, Entry]) -> Iterator[list[str]]:
    """Names in the source's order, cut so that no part holds much more than SHARD bytes."""
    widths = {"F32": 4, "I32": 4, "I64": 8, "F8_E4M3": 1, "I8": 1}
    names: list[str] = []
    size = 0
    for name, entry in entries.items():
        if re.search(r"\.weight_(scale_inv|scale|shape)$", name):
            continue  # goes with its matrix
        names.append(name.removesuffix(compressed.PACKED))
        size += widths.get(entry.dtype, 2) * torch.Size(entry.shape).numel()
        if size >= SHARD:
            yield names
            names, size = [], 0
    if names:
        yield names


def _converted(
    name: str, reader: Reader, entries: dict[str, Entry], shapes: dict[str, tuple[int, ...]], policy: Policy
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that stand for one of the source's."""
    target = target_of(name, shapes[name], policy) if name in shapes else None
    if target is None:
        kept = _KEPT.get(entries[name].dtype, torch.bfloat16) if name in entries else torch.bfloat16
        yield name, reader.get(name).to(kept).contiguous()
        return
    found = reader.quantised(name)
    if target.bits == 8:
        eight = found if isinstance(found, int8.Quantised) else int8.quantise(_rounded(name, reader, entries))
        q, scale = compressed.from_int8(eight)
        yield name, q.contiguous()
        yield name + compressed.SCALE, scale
        return
    same = isinstance(found, int4.Quantised) and found.group == target.group
    four = found if same else int4.quantise(_rounded(name, reader, entries), target.group)
    q, scale = compressed.from_int4(four)  # pyright: ignore[reportArgumentType] - `same` says what it is
    yield name + compressed.PACKED, q
    yield name + compressed.SCALE, scale
    yield name + compressed.SHAPE, torch.tensor(shapes[name])


def _rounded(name: str, reader: Reader, entries: dict[str, Entry]) -> Tensor:
    """Values as a bfloat16 model has them, so that serving the source under the policy gives the same numbers."""
    value = reader.get(name)
    return value.bfloat16().float() if name in entries and reader.quantised(name) is None else value


def _is_whole(path: Path) -> bool:
    try:
        return path.exists() and bool(_names(path))
    except CheckpointError:
        return False


def _names(path: Path) -> list[str]:
    """Tensors of a shard; raises CheckpointError when it is cut off."""
    return list(file_entries(path))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _write_config(source: Path, spec: ModelSpec, policy: Policy, out: Path) -> None:
    config = json.loads((source / "config.json").read_bytes())
    config.pop("quantization_config", None)
    if policy.is_quantised:
        config["quantization_config"] = quantization_config(spec, policy)
    _write_json(out / "config.json", config)


def quantization_config(spec: ModelSpec, policy: Policy) -> dict[str, Any]:
    """What other programs need to know to read the whole numbers."""
    groups: dict[_Target, dict[str, set[int]]] = {}
    ignored: dict[str, set[int]] = {}
    for name, shape in expected_shapes(spec).items():
        if len(shape) != 2 or name == "model.embed_tokens.weight":
            continue
        target = target_of(name, shape, policy)
        layer = re.search(r"layers\.(\d+)", name)
        kind = re.escape(re.sub(r"layers\.\d+", "layers.@", name.removesuffix(".weight")))
        kind = re.sub(r"experts\\\.\d+", r"experts\\.\\d+", kind)
        place = ignored if target is None else groups.setdefault(target, {})
        place.setdefault(kind, set()).add(int(layer[1]) if layer else -1)
    return {
        "quant_method": METHOD,
        "quantization_status": "compressed",
        "format": "mixed-precision",
        "config_groups": {
            f"group_{index}": {"targets": _patterns(kinds), "weights": _weights(target), **_layout(target)}
            for index, (target, kinds) in enumerate(groups.items())
        },
        "ignore": _patterns(ignored),
    }


def _weights(target: _Target) -> dict[str, Any]:
    strategy = {"strategy": "group", "group_size": target.group} if target.group else {"strategy": "channel"}
    return {"num_bits": target.bits, "type": "int", "symmetric": True, "dynamic": False, **strategy}


def _layout(target: _Target) -> dict[str, Any]:
    if target.bits == 4:
        return {"format": "pack-quantized", "input_activations": None}
    rows = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    return {"format": "int-quantized", "input_activations": rows}


def _patterns(kinds: dict[str, set[int]]) -> list[str]:
    """Regular expressions for module names, with their layers listed."""
    return [f"re:{kind.replace('@', '(?:' + '|'.join(map(str, sorted(at))) + ')')}$" for kind, at in kinds.items()]
