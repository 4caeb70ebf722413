"""The receiving directory: what of it is right already, room for the rest, and no half file under a final name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dsctl.base.errors import DsctlError
from dsctl.base.units import size
from dsctl.facts.manifest import NOTES, Manifest, Piece, WeightFile, pieces
from dsctl.reach.weights import index

RESERVE = 64 << 20  # left free besides what is written


class SpaceError(DsctlError):
    """The disk has no room, or had none any more; nothing half is left."""


class Ground:
    """One directory that is to become what a manifest says. A file is whole under its name, or lies in .dsctl/parts."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self.notes = directory / NOTES
        self._parts = self.notes / "parts"
        self._memory = self.notes / "hashes.json"

    def part(self, name: str) -> Path:
        """Where a file grows."""
        return self._parts / name

    def final(self, name: str) -> Path:
        """Where it lies when it is whole."""
        return self.directory / name

    def missing(self, told: Callable[[int], None]) -> list[Piece]:
        """The chunks that are not there, after hashing all that is; `told` is called with the bytes that are right.

        A file under its final name of which a part is wrong goes back among the growing ones.
        """
        self._root_gone()
        known = index.recall(self._memory, self.manifest.chunk)
        found: list[Piece] = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for file in self.manifest.files:
                wrong = self._wrong(file, pool, known)
                if wrong and self.final(file.name).exists():
                    self.part(file.name).parent.mkdir(parents=True, exist_ok=True)
                    self.final(file.name).replace(self.part(file.name))
                told(file.size - sum(each.size for each in wrong))
                found += wrong
        return found

    def _wrong(
        self, file: WeightFile, pool: ThreadPoolExecutor, known: Mapping[str, tuple[index.Stamp, tuple[str, ...]]]
    ) -> list[Piece]:
        """The chunks that are not right; none: it is whole under its name."""
        final, part = self.final(file.name), self.part(file.name)
        if not file.size:
            final.parent.mkdir(parents=True, exist_ok=True)
            final.write_bytes(b"")
            return []
        if final.is_file() and final.stat().st_size == file.size:
            remembered = known.get(file.name)
            if remembered and remembered[0] == index.stamp(final) and remembered[1] == file.chunks:
                return []
            return self._compare(final, file, pool)
        path = final if final.is_file() else part
        wrong = self._compare(path, file, pool) if path.is_file() else list(pieces(file, self.manifest.chunk))
        if not wrong:
            self._whole(path, file)
        return wrong

    def _compare(self, path: Path, file: WeightFile, pool: ThreadPoolExecutor) -> list[Piece]:
        there = list(pieces(file, self.manifest.chunk))
        digests = pool.map(index.digest, [path] * len(there), [p.offset for p in there], [p.size for p in there])
        return [each for each, digest in zip(there, digests, strict=True) if digest != each.digest]

    def check_room(self, wanted: list[Piece]) -> None:
        """SpaceError when the missing files do not fit: asked before the first byte is written."""
        names = dict.fromkeys(each.file for each in wanted)
        need = 0
        for name in names:
            file = self.manifest.file(name)
            have = self.part(name).stat().st_blocks * 512 if self.part(name).exists() else 0
            need += max(0, (file.size if file else 0) - have)
        told = os.statvfs(self.directory)
        free = told.f_bavail * told.f_frsize
        if wanted and need + min(RESERVE, need // 20) > free:
            raise SpaceError(f"{size(need)} more are needed, {size(free)} are free",
                             hint="dsctl weights gc, or a larger disk")  # fmt: skip

    def begin(self, file: WeightFile) -> int:
        """Opens a growing file with its whole room reserved; the caller closes it."""
        path = self.part(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(handle, file.size)
            os.posix_fallocate(handle, 0, file.size)
        except OSError as error:
            os.close(handle)
            self.refuse(error, file.name)
        return handle

    def refuse(self, error: OSError, name: str) -> None:
        """A full disk: what is half written gives its room back, and SpaceError is raised; other errors as they are."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(OSError):
                self.part(name).unlink()
            raise SpaceError(
                f"{name}: the disk is full; its half was removed", why=str(error),
                hint="free some space and run the same command again; whole files are kept",
            ) from error  # fmt: skip
        raise error

    def end(self, file: WeightFile, handle: int) -> None:
        """All chunks are there: to disk, then under its name."""
        os.fsync(handle)
        os.close(handle)
        self._whole(self.part(file.name), file)

    def _whole(self, path: Path, file: WeightFile) -> None:
        os.truncate(path, file.size)
        final = self.final(file.name)
        if path != final:
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)

    def seal(self) -> None:
        """Notes what lies here: manifest and hashes, and the root last, by which others know that all is whole."""
        files = {each.name: (index.stamp(self.final(each.name)), each.chunks) for each in self.manifest.files}
        for name, text in (("manifest.json", self.manifest.text()), ("root", self.manifest.root() + "\n")):
            fresh = self.notes / f".{name}.new"
            with fresh.open("w") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            if name == "root":
                index.remember(self._memory, self.manifest.chunk, files)
            fresh.replace(self.notes / name)
        self._clear()

    def _root_gone(self) -> None:
        """While anything is being changed the directory is not whole."""
        self.notes.mkdir(parents=True, exist_ok=True)
        (self.notes / "root").unlink(missing_ok=True)

    def _clear(self) -> None:
        """Growing files that no manifest names any more."""
        for top, inner, files in os.walk(self._parts, topdown=False):
            for each in files:
                (Path(top) / each).unlink(missing_ok=True)
            for each in inner:
                with suppress(OSError):
                    (Path(top) / each).rmdir()
        with suppress(OSError):
            self._parts.rmdir()
