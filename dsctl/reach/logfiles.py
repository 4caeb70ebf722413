"""The door to log files: names and directories become files, files become blocks of bytes (gz, xz and stdin too)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dsctl.base.errors import UsageError

BLOCK = 2 << 20
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


def expand(names: list[str]) -> tuple[list[LogFile], list[tuple[str, str]]]:
    """The files behind `names` (files, directories, `-`), and what was passed over with the reason."""
    files: list[LogFile] = []
    passed: list[tuple[str, str]] = []
    for name in names:
        if name == "-":
            files.append(LogFile("stdin", None))
            continue
        path = Path(name)
        if not path.exists():
            raise UsageError(f"--logs {name}: there is no such file or directory", hint="dsctl doctor --logs FILE")
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in found[:MOST_FILES]:
            if file.suffix.lower() in NOT_LOGS:
                passed.append((str(file), f"a {file.suffix} file is not a log"))
            else:
                files.append(LogFile(str(file), file, file.stat().st_size))
        if len(found) > MOST_FILES:
            passed.append((name, f"only the first {MOST_FILES} of {len(found)} files were read"))
    return files, passed


def blocks(file: LogFile) -> Iterator[bytes]:
    """The bytes of a file in blocks. OSError where it cannot be read, a damaged archive included."""
    import lzma
    import zlib

    try:
        with _opened(file) as stream:
            while block := stream.read(BLOCK):
                yield block
    except (EOFError, zlib.error, lzma.LZMAError) as problem:
        raise OSError(f"damaged archive: {problem}") from problem


def head(file: LogFile, size: int = 4096) -> bytes:
    """The beginning of a file; empty for standard input, which can be read only once."""
    if file.path is None:
        return b""
    for block in blocks(file):
        return block[:size]
    return b""


def text(file: LogFile, most: int) -> str:
    """A whole small file. ValueError when it is larger than `most` bytes."""
    data = b"".join(blocks(file)) if file.size <= most else b""
    if file.size > most:
        raise ValueError(f"{file.size} bytes; at most {most} are read")
    return data.decode("utf-8", "replace")


def _opened(file: LogFile) -> IO[bytes]:
    if file.path is None:
        return sys.stdin.buffer
    suffix = file.path.suffix.lower()
    if suffix == ".gz":
        import gzip

        return gzip.open(file.path, "rb")  # pyright: ignore[reportReturnType]
    if suffix == ".xz":
        import lzma

        return lzma.open(file.path, "rb")
    return file.path.open("rb")
