"""A file of packed weights that every replica maps into memory: quantised once, shared, and rebuilt when damaged.

Layout: tensors at multiples of ALIGN, then an index in JSON, then a footer of fixed size that locates and checks it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import torch
from torch import Tensor

from engine.kernels.cpu.matrix import Matrix
from engine.spec import heap

VERSION: Final = 1  # raised when packing or quantising changes: part of every file's name
KEPT: Final = 4  # files in the cache; the ones used longest ago go first

_ALIGN = 4096
_MAGIC = b"dsctlpk1"
_FOOTER = struct.Struct("<QQI8s")  # offset, length and CRC of the index
_DTYPES = {
    str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.int32)
}

_log = logging.getLogger(__name__)
_Made = TypeVar("_Made")


class Packing(Protocol):
    """Where a builder's packed weights come from: made now, or found as they were made before."""

    def matrix(self, name: str, make: Callable[[], Matrix]) -> Matrix:
        """The matrix called `name`."""
        ...

    def vector(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The plain tensor called `name`."""
        ...


class Direct:
    """Everything is made now and kept nowhere."""

    def matrix(self, name: str, make: Callable[[], Matrix]) -> Matrix:
        """make()"""
        del name
        return make()

    def vector(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """make()"""
        del name
        return make()


class PackWriter:
    """Makes everything and writes it down; a full disk ends the writing, not the making."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._index: dict[str, Any] = {}
        self.failure: OSError | None = None

    def matrix(self, name: str, make: Callable[[], Matrix]) -> Matrix:
        """make(), noted."""
        made = make()
        shape = [made.experts, made.outputs, made.inputs]
        self._note(name, list(made.tensors), {"kind": made.kind, "group": made.group, "shape": shape})
        return made

    def vector(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """make(), noted."""
        made = make().contiguous()
        self._note(name, [made], {})
        return made

    def finish(self) -> None:
        """Write index and footer. Raises the OSError that ended the writing."""
        if self.failure is not None:
            raise self.failure
        text = json.dumps(self._index).encode()
        offset = self._file.tell()
        self._file.write(text + _FOOTER.pack(offset, len(text), zlib.crc32(text), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _note(self, name: str, tensors: list[Tensor], facts: dict[str, Any]) -> None:
        if self.failure is not None:
            return
        try:
            self._index[name] = {**facts, "tensors": [self._write(tensor) for tensor in tensors]}
        except OSError as error:
            self.failure = error

    def _write(self, tensor: Tensor) -> dict[str, Any]:
        self._file.write(b"\0" * (-self._file.tell() % _ALIGN))
        offset = self._file.tell()
        data = tensor.flatten().view(torch.uint8).numpy().data
        self._file.write(data)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(tensor.shape), "offset": offset, "crc": zlib.crc32(data)}


class PackReader:
    """Finds everything in a mapped file; the tensors keep the map alive."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises ValueError when anything in the file is not as it was written."""
        size = os.fstat(file.fileno()).st_size
        if size < _FOOTER.size:
            raise ValueError("shorter than its footer")
        # private and writable in name only: a read-only buffer makes torch warn, and nobody writes
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        offset, length, crc, magic = _FOOTER.unpack(self._map[-_FOOTER.size :])
        if magic != _MAGIC or offset + length + _FOOTER.size != size:
            raise ValueError("its footer is not where it should be")
        text = self._map[offset : offset + length]
        if zlib.crc32(text) != crc:
            raise ValueError("its index is damaged")
        self._index: dict[str, Any] = json.loads(text)
        tensors = [(name, tensor) for name, entry in self._index.items() for tensor in entry["tensors"]]
        with ThreadPoolExecutor(2) as pool:
            for (name, _), right in zip(tensors, pool.map(lambda item: self._is_right(item[1]), tensors), strict=True):
                if not right:
                    raise ValueError(f"{name} is damaged")

    def matrix(self, name: str, make: Callable[[], Matrix]) -> Matrix:
        """As it was written."""
        del make
        entry = self._index[name]
        experts, outputs, inputs = entry["shape"]
        tensors = [self._tensor(tensor) for tensor in entry["tensors"]]
        return Matrix(entry["kind"], (experts, outputs, inputs), tensors, entry["group"])

    def vector(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """As it was written."""
        del make
        return self._tensor(self._index[name]["tensors"][0])

    def _tensor(self, entry: dict[str, Any]) -> Tensor:
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        count = torch.Size(shape).numel()
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry["offset"]).view(shape)

    def _is_right(self, entry: dict[str, Any]) -> bool:
        size = torch.Size(entry["shape"]).numel() * _DTYPES[entry["dtype"]].itemsize
        with memoryview(self._map) as whole, whole[entry["offset"] : entry["offset"] + size] as part:
            return zlib.crc32(part) == entry["crc"]


def packed(directory: Path, key: str, assemble: Callable[[Packing], _Made]) -> _Made:
    """What `assemble` builds, from the file for `key`, which is written first when it is missing or damaged.

    Another process that wants the same file waits and then maps it. Without room for the file, nothing is cached.
    """
    path = directory / f"{key}-{VERSION}.pack"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(directory / f"{key}.lock"):
            reader = _open(path)
            if reader is None:
                made = _write(path, assemble)
                if made is not None:
                    return made
                heap.trim()
                reader = _open(path)
            if reader is None:
                return assemble(Direct())
            _forget_old(directory)
    except OSError as error:
        _log.warning("packed weights are not cached: %s", error)
        return assemble(Direct())
    return assemble(reader)


def _open(path: Path) -> PackReader | None:
    try:
        with path.open("rb") as file:
            reader = PackReader(file)
        os.utime(path)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("packed weights %s are rebuilt: %s", path, error)
        path.unlink(missing_ok=True)
        return None
    return reader


def _write(path: Path, assemble: Callable[[Packing], _Made]) -> _Made | None:
    """Make the file. What was made for it is given back only when it could not be written: both need not fit memory."""
    _log.info("packing the weights into %s; this happens once", path)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            writer = PackWriter(file)  # pyright: ignore[reportArgumentType] - a wrapper around a BinaryIO
            made = assemble(writer)
            try:
                writer.finish()
                Path(file.name).replace(path)
            except OSError as error:
                _log.warning("packed weights are not cached: %s", error)
                return made
            return None
        finally:
            Path(file.name).unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_old(directory: Path) -> None:
    files = sorted(directory.glob("*.pack"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
        path.with_name(path.name.rpartition("-")[0] + ".lock").unlink(missing_ok=True)
