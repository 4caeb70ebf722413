"""Directory → manifest: reads and hashes every file, in several threads, and remembers files that did not change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import PreflightError
from dsctl.facts.manifest import CHUNK, NOTES, Manifest, WeightFile, is_safe

Told = Callable[[int], None]  # bytes hashed since the last call
LEFT_OUT = (".git", ".cache", NOTES)
LEFT_OUT_ENDS = (".lock", ".part", ".incomplete")
Stamp = tuple[int, int, int]  # bytes, modification time in ns, inode: a file with the same was not changed


def names(directory: Path) -> list[str]:
    """The files that belong to the weights, below `directory`, in order; links are followed to files only."""
    found: list[str] = []
    for top, inner, files in os.walk(directory):
        inner[:] = [each for each in inner if each not in LEFT_OUT]
        for each in files:
            name = str((Path(top) / each).relative_to(directory))
            if is_safe(name) and not each.endswith(LEFT_OUT_ENDS) and (directory / name).is_file():
                found.append(name)
    return sorted(found)


def size(directory: Path) -> int:
    """Bytes of all these files."""
    return sum((directory / name).stat().st_size for name in names(directory))


def build(
    directory: Path, *, chunk: int = CHUNK, memory: Path | None = None, told: Told | None = None, threads: int = 0
) -> Manifest:
    """The manifest of a directory. `memory` is a file in which hashes of unchanged files are found again.

    PreflightError when there is nothing in it, or a file changes while it is read.
    """
    listed = names(directory)
    if not listed:
        raise PreflightError(f"{directory} holds no weights", hint="a directory with config.json and *.safetensors")
    known = recall(memory, chunk)
    stamps = {name: stamp(directory / name) for name in listed}
    files: dict[str, WeightFile] = {}
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for name in listed:
            before = known.get(name)
            if before and before[0] == stamps[name]:
                files[name] = WeightFile(name, stamps[name][0], before[1])
                if told:
                    told(stamps[name][0])
                continue
            size = stamps[name][0]
            offsets = range(0, size, chunk)
            digests = pool.map(
                digest, [directory / name] * len(offsets), offsets, [min(chunk, size - at) for at in offsets]
            )
            files[name] = WeightFile(name, stamps[name][0], tuple(_counted(digests, chunk, told)))
    for name in listed:
        if stamp(directory / name) != stamps[name]:
            raise PreflightError(f"{directory / name} changes while it is read", hint="wait until it is whole")
    if memory is not None:
        remember(memory, chunk, {name: (stamps[name], each.chunks) for name, each in files.items()})
    return Manifest(chunk, tuple(files[name] for name in listed))


def digest(path: Path, offset: int, length: int) -> str:
    """SHA-256 of a part of a file; of less when the file is shorter."""
    told = sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while length > 0 and (data := file.read(min(length, 1 << 20))):
            told.update(data)
            length -= len(data)
    return told.hexdigest()


def stamp(path: Path) -> Stamp:
    """What changes when the file does."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def remember(memory: Path, chunk: int, files: Mapping[str, tuple[Stamp, tuple[str, ...]]]) -> None:
    """Writes what `recall` reads, temp + rename; a directory that cannot be written to is no reason to fail."""
    told = {"chunk": chunk, "files": {name: [list(mark), list(chunks)] for name, (mark, chunks) in files.items()}}
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        fresh = memory.with_name(f"{memory.name}.{os.getpid()}")
        fresh.write_text(json.dumps(told, separators=(",", ":")))
        fresh.replace(memory)


def recall(memory: Path | None, chunk: int) -> dict[str, tuple[Stamp, tuple[str, ...]]]:
    """Hashes by name with the stamp they hold for; nothing when they are not to be had."""
    if memory is None:
        return {}
    try:
        told = cast("dict[str, Any]", json.loads(memory.read_text()))
        if told["chunk"] != chunk:
            return {}
        return {n: ((int(m[0]), int(m[1]), int(m[2])), tuple(chunks)) for n, (m, chunks) in told["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _counted(digests: Iterator[str], chunk: int, told: Told | None) -> Iterator[str]:
    for each in digests:
        if told:
            told(chunk)
        yield each


def known_root(directory: Path, memory: Path) -> str:
    """The root of a directory none of whose files changed since it was hashed; empty when one did."""
    known = recall(memory, CHUNK)
    files: list[WeightFile] = []
    for name in names(directory):
        mark = stamp(directory / name)
        if name not in known or known[name][0] != mark:
            return ""
        files.append(WeightFile(name, mark[0], known[name][1]))
    return Manifest(CHUNK, tuple(files)).root()
