"""The door to log files: names and directories become files, files become blocks of bytes (gz, xz and stdin too)."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsctl.base.errors import UsageError

BLOCK = 2 << 20
PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "lzma",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
MOST_FILES = 5000
NOT_LOGS = frozenset((
    ".md", ".rst", ".html", ".py", ".pyc", ".sh", ".c", ".cc", ".cu", ".cpp", ".h", ".patch", ".diff", ".so", ".bin",
    ".pt", ".pth", ".safetensors", ".gguf", ".png", ".jpg", ".svg", ".tar", ".zip", ".whl", ".ipynb", ".css", ".js",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log to read; `shown` is how it is quoted, `path` None means standard input."""

    shown: str
    path: Path | None
    size: int = 0


Pairs = list[tuple[str, str]]


def expand(names: list[str]) -> tuple[list[LogFile], Pairs, Pairs]:
    """The files behind `names` (files, directories, pipes, `-`), what was passed over, and what could not be read."""
    files: list[LogFile] = []
    passed: Pairs = []
    unread: Pairs = []
    for name in names:
        if name == "-":
            files.append(LogFile("stdin", None))
            continue
        path = Path(name)
        if not path.exists():
            raise UsageError(f"--logs {name}: there is no such file or directory", hint="dsctl doctor --logs FILE")
        found = _below(path, unread) if path.is_dir() else [path]
        if not found and path.is_dir():
            unread.append((name, "there is no file in it that can be read"))
        for file in found[:MOST_FILES]:
            if file.suffix.lower() in NOT_LOGS:
                passed.append((str(file), f"a {file.suffix} file is not a log"))
            else:
                files.append(LogFile(str(file), file, file.stat().st_size))
        if len(found) > MOST_FILES:
            passed.append((name, f"only the first {MOST_FILES} of {len(found)} files were read"))
    return files, passed, unread


def _below(directory: Path, unread: Pairs) -> list[Path]:
    """All files of a directory and the directories in it; those that may not be opened are named."""

    def refused(problem: OSError) -> None:
        unread.append((str(problem.filename), f"could not be read: {problem.strerror}"))

    found: list[Path] = []
    for place, _, names in os.walk(directory, onerror=refused):
        found += [path for name in names if (path := Path(place, name)).is_file()]
    return sorted(found)


def is_sized(file: LogFile) -> bool:
    """True where the bytes that will be read are known before: a plain file, not packed, not a pipe."""
    return bool(file.path and file.path.is_file()) and not _packing(head(file, packed=True))


def blocks(file: LogFile) -> Iterator[bytes]:
    """The bytes of a file in blocks, unpacked, UTF-16 as UTF-8. OSError where it cannot be read or is damaged."""
    import lzma
    import zlib

    try:
        with _opened(file) as stream:
            yield from _decoded(_pieces(stream))
    except (EOFError, zlib.error, lzma.LZMAError) as problem:
        raise OSError(f"damaged archive: {problem}") from problem


def _pieces(stream: Any) -> Iterator[bytes]:
    """Whole blocks. One that is not whole is the last: a terminal that is asked again wants a second Ctrl-D."""
    while piece := stream.read(BLOCK):
        yield piece
        if len(piece) < BLOCK:
            return


def _decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """UTF-16 (what PowerShell's `>` writes) becomes UTF-8; everything else stays as it is."""
    decoder = None
    for number, piece in enumerate(pieces):
        if number == 0 and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            decoder = codecs.getincrementaldecoder("utf-16")("replace")
        yield decoder.decode(piece).encode("utf-8", "replace") if decoder else piece


def head(file: LogFile, size: int = 4096, *, packed: bool = False) -> bytes:
    """The beginning of a file, as it lies there where `packed`; empty for what can be read only once (stdin, pipes)."""
    if file.path is None or not file.path.is_file():
        return b""
    if packed:
        with file.path.open("rb") as stream:
            return stream.read(size)
    return next((block[:size] for block in blocks(file)), b"")


def is_binary(start: bytes) -> bool:
    """True when the beginning of a file is no text. Runs of zero bytes (a log cut by a power failure) do not count."""
    text = start.replace(b"\0", b"").decode("utf-8", "replace")
    odd = sum(char == "\ufffd" or (char < " " and char not in "\t\r\n\x0b\f\x1b\b") for char in text)
    return odd > len(text) * 0.2


def text(file: LogFile, most: int) -> str:
    """A whole small file. ValueError when it is larger than `most` bytes."""
    data = b"".join(blocks(file)) if file.size <= most else b""
    if file.size > most:
        raise ValueError(f"{file.size} bytes; at most {most} are read")
    return data.decode("utf-8", "replace")


def _packing(start: bytes) -> str:
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), "")


@contextmanager
def _opened(file: LogFile) -> Generator[Any, None, None]:
    """The unpacked bytes as a stream; the packing is known by its first bytes, whatever the name."""
    with nullcontext(sys.stdin.buffer) if file.path is None else file.path.open("rb") as found:
        raw: Any = found  # buffered, both: the first bytes can be seen before they are read
        kind = _packing(raw.peek(8)[:8])
        if kind in ("zstd", "lz4"):
            raise OSError(f"packed with {kind}: unpack it first, for example {kind} -dc FILE | dsctl doctor --logs -")
        if kind:
            import bz2
            import gzip
            import lzma

            opener: Any = {"gzip": gzip, "lzma": lzma, "bz2": bz2}[kind]
            with opener.open(raw, "rb") as unpacked:
                yield unpacked
        else:
            yield raw
