"""What a directory of weights holds, chunk by chunk, as a tree of hashes whose root alone has to be trusted.

A chunk's hash is SHA-256 of its bytes; pairs are hashed upwards (leaves prefixed with 0, nodes with 1 as in RFC 6962,
so that no chunk can pass for a node); a file's node is over its name, size and tree; the root is over all files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from dsctl.base.missing import Missing

CHUNK = 16 << 20  # 690 GB are 41 000 chunks and a manifest of 3 MB; one lost chunk costs 16 MiB
VERSION = 1
NOTES = ".dsctl"  # the directory beside the weights that holds manifest, root and what is being received


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of one file, by place."""

    file: str
    number: int
    offset: int
    size: int
    digest: str  # hex


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file: its name below the directory, its bytes, its chunks' hashes in order."""

    name: str
    size: int
    chunks: tuple[str, ...]

    def node(self) -> bytes:
        """Its hash in the tree."""
        name = self.name.encode()
        told = b"%d:%s:%d:" % (len(name), name, self.size)
        return sha256(b"\x01" + told + _tree([bytes.fromhex(each) for each in self.chunks])).digest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files in order of their names."""

    chunk: int
    files: tuple[WeightFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.files)

    def root(self) -> str:
        """The hash that stands for everything, as hex."""
        top = _tree([each.node() for each in self.files])
        return sha256(b"\x01" + b"dsctl-weights-%d:%d:" % (VERSION, self.chunk) + top).hexdigest()

    def file(self, name: str) -> WeightFile | None:
        """The file of that name."""
        return next((each for each in self.files if each.name == name), None)

    def pieces(self) -> Iterator[Piece]:
        """Every chunk of every file."""
        for each in self.files:
            yield from pieces(each, self.chunk)

    def text(self) -> str:
        """As JSON; the same text for the same files."""
        files = [[each.name, each.size, list(each.chunks)] for each in self.files]
        return json.dumps({"version": VERSION, "chunk": self.chunk, "files": files}, separators=(",", ":"))


def pieces(file: WeightFile, chunk: int) -> Iterator[Piece]:
    """The chunks of one file with their places."""
    for number, digest in enumerate(file.chunks):
        offset = number * chunk
        yield Piece(file.name, number, offset, min(chunk, file.size - offset), digest)


def parse(text: str) -> Manifest | Missing:
    """Reads a manifest that may come from anybody: names that lead elsewhere and impossible sizes are refused."""
    try:
        told = cast("Mapping[str, Any]", json.loads(text))
        if told["version"] != VERSION:
            return Missing(f"a manifest of version {told['version']}, this dsctl reads {VERSION}")
        chunk = int(told["chunk"])
        files = tuple(WeightFile(str(n), int(s), tuple(str(c) for c in chunks)) for n, s, chunks in told["files"])
    except (ValueError, KeyError, TypeError) as error:
        return Missing(f"no manifest: {error!r}")
    if chunk < 1:
        return Missing(f"a chunk of {chunk} bytes")
    names = [each.name for each in files]
    if names != sorted(set(names)):
        return Missing("its names are not in order, or one stands twice")
    for each in files:
        if not is_safe(each.name):
            return Missing(f"the name {each.name!r} leads out of the directory")
        wanted = -(-each.size // chunk)
        if each.size < 0 or len(each.chunks) != wanted or any(len(digest) != 64 for digest in each.chunks):
            return Missing(f"{each.name}: {len(each.chunks)} chunks for {each.size} bytes")
    return Manifest(chunk, files)


def is_safe(name: str) -> bool:
    """True for a relative path that stays below its directory and is not one of our own notes."""
    parts = name.split("/")
    plain = bool(name) and all(each not in ("", ".", "..") for each in parts) and parts[0] != NOTES
    return plain and name.isprintable() and "\\" not in name


def _tree(leaves: Sequence[bytes]) -> bytes:
    """The hash over a list; an odd one out goes up as it is."""
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves] or [sha256(b"\x00").digest()]
    while len(level) > 1:
        pairs = [sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0]
