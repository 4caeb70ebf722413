"""The files of the state directory: the replica table, tokens and keys, read again when they change."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

_log = logging.getLogger("dsctl.gateway")


class Row(msgspec.Struct, frozen=True):
    """One replica of the table."""

    name: str
    url: str
    weight: float = 1.0
    spec_hash: str = ""
    state: Literal["active", "gated", "draining"] = "active"
    share: float = 0.0  # of all requests, exactly this part begins here (a canary); 0: what its load allows

    @property
    def host(self) -> str:
        """HOST:PORT of its url."""
        return urlsplit(self.url).netloc


class Table(msgspec.Struct, frozen=True):
    """replicas.json."""

    generation: int
    replicas: list[Row]


_decode_table = msgspec.json.Decoder(Table).decode


def read_table(data: bytes) -> Table:
    """Parse replicas.json; raises ValueError naming what is wrong."""
    try:
        table = _decode_table(data)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    names = [row.name for row in table.replicas]
    if len(set(names)) != len(names):
        raise ValueError("two replicas have the same name")
    for row in table.replicas:
        parts = urlsplit(row.url)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"replica {row.name}: url {row.url!r} is not of the form http://HOST:PORT")
        if not 0 <= row.share < 1:
            raise ValueError(f"replica {row.name}: share {row.share} is not from 0 to below 1")
    return table


class WatchedFile:
    """A file written temp + rename; `changed` returns its bytes when they are new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> bytes | None:
        """New content since the last call, b"" when the file has gone, None when nothing changed."""
        try:
            stat = self.path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:
            gone, self._stamp = self._stamp is not None, None
            return b"" if gone else None
        except OSError as error:
            _log.warning("cannot look at %s: %s", self.path, error)
            return None
        if stamp == self._stamp:
            return None
        try:
            data = self.path.read_bytes()
        except OSError as error:
            _log.warning("cannot read %s: %s; what was read before stays in force", self.path, error)
            return None
        self._stamp = stamp
        return data


class TableFile:
    """replicas.json with its generation guard."""

    def __init__(self, state_dir: Path) -> None:
        self._file = WatchedFile(state_dir / "replicas.json")
        self.generation = 0
        self.refused = 0  # tables refused: lower generation or unreadable

    def poll(self) -> Table | None:
        """A newer table, or None. An invalid or older file never replaces a good one."""
        data = self._file.changed()
        if not data:
            return None
        try:
            table = read_table(data)
        except ValueError as error:
            self.refused += 1
            _log.error("replicas.json is refused: %s; generation %d stays in force", error, self.generation)
            return None
        if table.generation < self.generation:
            self.refused += 1
            _log.error("replicas.json has generation %d, older than %d: refused", table.generation, self.generation)
            return None
        self.generation = table.generation
        return table
