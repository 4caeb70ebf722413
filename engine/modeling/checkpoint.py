"""Checkpoint files on disk: what they hold, whether they are whole, and one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.modeling.tensors import Shapes, expected_shapes, is_mtp, is_redundant
from engine.quant import compressed
from engine.quant.fp8 import dequantise, scale_shape
from engine.spec import heap
from engine.spec.errors import CheckpointError
from engine.spec.model import ModelSpec

INDEX = "model.safetensors.index.json"
_FLOATS = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
_WIDTHS = {**_FLOATS, "I8": 1, "I32": 4, "I64": 8}
_PARTS = (compressed.PACKED, compressed.SCALE, compressed.SHAPE)
_LFS = b"version https://git-lfs"
_SAMPLE = 4096  # bytes read at each of _SAMPLES places of a file for its fingerprint
_SAMPLES = 64
MAPPED = 64 << 20  # bytes read after which files are unmapped and mapped again


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_entries(model_dir: Path) -> dict[str, Entry]:
    """Every tensor of a checkpoint by name. Raises CheckpointError for a missing, truncated or foreign file."""
    index = model_dir / INDEX
    if not index.exists():
        files = sorted(model_dir.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{model_dir} holds no *.safetensors; download the weights or name another directory")
        return {name: entry for file in files for name, entry in file_entries(file).items()}
    try:
        listed = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(listed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files ({error!r}); download it again") from error
    missing = [name for name in names if not (model_dir / name).exists()]
    if missing:
        raise CheckpointError(
            f"{index} lists {missing[0]}, which does not exist; {len(missing)} of {len(names)} missing"
        )
    found = {name: entry for file in names for name, entry in file_entries(model_dir / file).items()}
    for name, file in listed.items():
        if name not in found or found[name].file.name != file:
            raise CheckpointError(f"{index} says that {file} holds tensor {name}, but it does not; download both again")
    return found


def file_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one file. Raises CheckpointError when it is truncated, damaged or foreign."""
    header, start = _header(path)
    end = start
    entries: dict[str, Entry] = {}
    for name, found in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (low, high) = found["dtype"], tuple(found["shape"]), found["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the header entry of tensor {name} is damaged; download it again") from error
        if dtype not in _WIDTHS:
            supported = ", ".join(_WIDTHS)
            raise CheckpointError(f"{path}: tensor {name} has the type {dtype}; supported: {supported}")
        if high - low != math.prod(shape) * _WIDTHS[dtype]:
            raise CheckpointError(f"{path}: tensor {name} of shape {list(shape)} does not fill its {high - low} bytes")
        end = max(end, start + high)
        entries[name] = Entry(path, dtype, shape)
    size = path.stat().st_size
    if size < end:
        last = max(entries, key=lambda name: header[name]["data_offsets"][1])
        raise CheckpointError(f"{path} is truncated: {size} of {end} bytes, tensor {last} is cut; download it again")
    return entries


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and where its data begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(_LFS))
        if first == _LFS:
            raise CheckpointError(f"{path} is a git-LFS pointer, not the weights; run `git lfs pull` in its repository")
        if len(first) < 8:
            raise CheckpointError(f"{path} is truncated: {size} bytes, not even a header; download it again")
        (length,) = struct.unpack("<Q", first[:8])
        if length > size - 8:
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file: a header of {length} bytes is announced, "
                f"the file has {size}; download it again"
            )
        file.seek(8)
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path} has a damaged header ({error}); download it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged header; download it again")
    return header, 8 + length


def check_entries(entries: dict[str, Entry], expected: Shapes, spec: ModelSpec, model_dir: Path) -> int:
    """Refuse missing, unknown and misshapen tensors by name; returns how many MTP tensors are left aside."""
    missing = [name for name in expected if name not in entries and name + compressed.PACKED not in entries]
    if missing:
        raise CheckpointError(
            f"{model_dir}: tensor {missing[0]} of shape {list(expected[missing[0]])} is missing "
            f"({len(missing)} of {len(expected)} are); config.json and the weights do not belong together"
        )
    skipped = 0
    for name, entry in entries.items():
        if name in expected or name.removesuffix(compressed.PACKED) in expected:
            _check_one(name, entry, entries, expected[name.removesuffix(compressed.PACKED)], spec)
        elif is_mtp(name, spec):
            skipped += 1
        elif not is_redundant(name, spec) and not _is_scale(name, expected):
            raise CheckpointError(f"{entry.file}: tensor {name} of shape {list(entry.shape)} is unknown to this model")
    return skipped


def _is_scale(name: str, expected: Shapes) -> bool:
    endings = ("_scale_inv", *_PARTS)
    return any(name.endswith(f".weight{end}") and name.removesuffix(end) in expected for end in endings)


def _check_one(name: str, entry: Entry, entries: dict[str, Entry], shape: tuple[int, ...], spec: ModelSpec) -> None:
    if entry.dtype in ("I8", "I32", "I64"):
        _check_whole(name, entry, entries, shape)
        return
    if entry.shape != shape:
        raise CheckpointError(
            f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json says {list(shape)}"
        )
    if entry.dtype != "F8_E4M3":
        return
    if spec.fp8_block is None:
        raise CheckpointError(f"{entry.file}: tensor {name} is FP8, but config.json has no quantization_config")
    scale = entries.get(f"{name}_scale_inv")
    if scale is None:
        raise CheckpointError(f"{entry.file}: tensor {name}_scale_inv is missing, without it {name} has no values")
    wanted = scale_shape(shape[0], shape[1], spec.fp8_block)
    if scale.shape != wanted:
        raise CheckpointError(
            f"{scale.file}: tensor {name}_scale_inv has shape {list(scale.shape)}, blocks of "
            f"{list(spec.fp8_block)} in {list(shape)} need {list(wanted)}"
        )


def _check_whole(name: str, entry: Entry, entries: dict[str, Entry], shape: tuple[int, ...]) -> None:
    """Whole numbers, int8 or packed into int32 words, need a scale for each channel or each group of inputs."""
    is_packed = entry.dtype == "I32" and name.endswith(compressed.PACKED)
    fits = {(shape[0], compressed.words(shape[-1], bits)) for bits in (4, 8)} if is_packed else {shape}
    if len(shape) != 2 or not (is_packed or entry.dtype == "I8"):
        raise CheckpointError(f"{entry.file}: tensor {name} has the type {entry.dtype}, which its place cannot have")
    if entry.shape not in fits:
        raise CheckpointError(
            f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json says {list(shape)}"
            + (f", which packed is {' or '.join(str(list(one)) for one in sorted(fits))}" if is_packed else "")
        )
    base = name.removesuffix(compressed.PACKED)
    scale = entries.get(base + compressed.SCALE)
    if scale is None:
        raise CheckpointError(
            f"{entry.file}: tensor {name} has the type {entry.dtype}, but {base}_scale, "
            "without which it has no values, is missing"
        )
    rows, groups = scale.shape if len(scale.shape) == 2 else (scale.shape[0] if scale.shape else 0, 1)
    if rows != shape[0] or groups < 1 or shape[1] % groups or scale.dtype not in _FLOATS:
        raise CheckpointError(
            f"{scale.file}: tensor {base}_scale has type {scale.dtype} and shape {list(scale.shape)}; {list(shape)} "
            f"needs [{shape[0]}, groups] where groups divides {shape[1]}"
        )


class Reader:
    """Reads tensors as float32 values, one at a time; of the files, little stays in memory."""

    def __init__(self, entries: dict[str, Entry], spec: ModelSpec) -> None:
        self._entries = entries
        self._inputs = {name: shape[-1] for name, shape in expected_shapes(spec).items()}
        self._spec = spec
        self._files = ExitStack()
        self._opened: dict[Path, Any] = {}
        self._read = 0

    def close(self) -> None:
        """Unmap the files, and give back what converting tensors has freed; tensors already given out stay good."""
        self._opened.clear()
        self._files.close()
        self._read = 0
        heap.trim()

    def get(self, name: str) -> Tensor:
        """Values float32 of a tensor, scales applied. Raises CheckpointError when any is NaN or infinite."""
        if self._is_whole(name):
            q, scale, _ = self._whole(name)
            return self._finite(f"{name}{compressed.SCALE}", compressed.dequantise(q, scale))
        value = self._raw(name)
        if self._entries[name].dtype == "F8_E4M3" and self._spec.fp8_block is not None:
            value = dequantise(value, self._raw(f"{name}_scale_inv"), self._spec.fp8_block)
        return self._finite(name, value.float())

    def quantised(self, name: str) -> compressed.Quantised | None:
        """The whole numbers of a tensor as the engine can compute with them; None where it holds none such."""
        if not self._is_whole(name):
            return None
        q, scale, bits = self._whole(name)
        self._finite(f"{name}{compressed.SCALE}", scale)
        return compressed.as_held(q, scale, bits)

    def _is_whole(self, name: str) -> bool:
        return name + compressed.PACKED in self._entries or self._entries[name].dtype == "I8"

    def _whole(self, name: str) -> tuple[Tensor, Tensor, int]:
        """int8 [outputs, inputs], scale [outputs, groups], bits of a number."""
        scale = self._raw(name + compressed.SCALE)
        scale = scale.view(scale.shape[0], -1)
        if name + compressed.PACKED not in self._entries:
            return self._raw(name), scale, 8
        packed = self._raw(name + compressed.PACKED)
        inputs = self._inputs.get(name) or int(self._raw(name + compressed.SHAPE)[1])
        bits = 4 if packed.shape[1] == compressed.words(inputs, 4) else 8
        return compressed.unpack(packed, bits, inputs), scale, bits

    def _finite(self, name: str, value: Tensor) -> Tensor:
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise CheckpointError(
                f"{self._entries[name].file}: tensor {name} holds {bad} NaN or infinite values; download it again"
            )
        return value

    def _raw(self, name: str) -> Tensor:
        path = self._entries[name].file
        try:
            if self._read > MAPPED:  # pages that were read count as ours while they stay mapped
                self.close()
            if path not in self._opened:
                self._opened[path] = self._files.enter_context(safe_open(str(path), framework="pt"))
            value: Tensor = self._opened[path].get_tensor(name)
            self._read += value.numel() * value.element_size()
            return value
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read ({error}); download the file again") from error


@contextmanager
def open_reader(entries: dict[str, Entry], spec: ModelSpec) -> Iterator[Reader]:
    """A Reader whose files are unmapped at the end."""
    reader = Reader(entries, spec)
    try:
        yield reader
    finally:
        reader.close()


def fingerprint(model_dir: Path, entries: dict[str, Entry]) -> str:
    """Hash of config.json, of every header, and of bytes sampled evenly from every file."""
    digest = hashlib.sha256((model_dir / "config.json").read_bytes())
    for path in sorted({entry.file for entry in entries.values()}):
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            digest.update(f"{path.name}:{size}".encode() + file.read(length))
            for place in range(_SAMPLES):
                file.seek(8 + length + max(0, size - 8 - length - _SAMPLE) * place // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]
