"""The door to bundle files: a tar.gz of few members; equal content gives equal bytes, nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import UsageError

CASE, REPORT = "case.json", "report.md"
MOST_BYTES = 512 << 20  # of the unpacked case: more is refused
_HINT = "make one with: dsctl doctor --out FILE"


def write(path: Path, case: dict[str, Any], report: str) -> None:
    """The bundle, beside and renamed; equal content gives equal bytes. UsageError where it cannot be written."""
    members = {CASE: json.dumps(case, ensure_ascii=False, sort_keys=True, separators=(",", ":")), REPORT: report}
    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(members):
            data = members[name].encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    beside = path.with_name(path.name + ".part")
    try:
        beside.touch(mode=0o600)
        beside.write_bytes(packed.getvalue())
        beside.replace(path)
    except OSError as problem:
        raise UsageError(
            f"--out {path}: {problem.strerror}", hint="name a file in a directory that exists"
        ) from problem


def read(path: Path) -> dict[str, Any]:
    """The case of a bundle. Only the member of that name is looked at; UsageError for anything that is none."""
    try:
        with tarfile.open(path, mode="r:gz") as archive:
            for entry in archive:
                if entry.name == CASE and entry.isreg():
                    return _case(archive, entry, path)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as problem:
        raise UsageError(f"--from {path}: it cannot be read as a bundle: {problem}", hint=_HINT) from problem
    raise UsageError(f"--from {path}: there is no {CASE} in it", hint=_HINT)


def _case(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> dict[str, Any]:
    if entry.size > MOST_BYTES:
        raise UsageError(f"--from {path}: {CASE} is {entry.size} bytes; at most {MOST_BYTES} are read", hint=_HINT)
    stream = archive.extractfile(entry)
    try:
        value: object = json.loads(stream.read(MOST_BYTES) if stream else b"")
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"--from {path}: {CASE} is not JSON: {problem}", hint=_HINT) from problem
    if not isinstance(value, dict):
        raise UsageError(f"--from {path}: {CASE} is not an object", hint=_HINT)
    return cast("dict[str, Any]", value)
