"""Files of host keys: whether a key is known, unknown, changed or revoked, and how a trusted one is added."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

Verdict = Literal["known", "unknown", "changed", "revoked"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: for whom, which kind of key, and the key itself in base64."""

    hosts: str
    kind: str
    key: str
    mark: str  # "", "@revoked" or "@cert-authority"
    place: str  # FILE:LINE

    def is_for(self, name: str) -> bool:
        """True when the line speaks of that host: plain, hashed, by pattern, less what `!` excludes."""
        if self.hosts.startswith("|1|"):
            return _is_hashed(self.hosts, name)
        words = self.hosts.lower().split(",")
        if any(word.startswith("!") and fnmatchcase(name.lower(), _escaped(word[1:])) for word in words):
            return False
        return any(fnmatchcase(name.lower(), _escaped(word)) for word in words if not word.startswith("!"))


@dataclass(frozen=True, slots=True)
class Finding:
    """What the files say about a host's key."""

    verdict: Verdict
    place: str = ""  # the line that decides
    has_authority: bool = False  # a certificate authority is named for the host, which this client cannot check


def read(paths: Iterable[Path]) -> Iterator[Line]:
    """Every line of every file that is there."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from parse(text, str(path))


def parse(text: str, source: str) -> Iterator[Line]:
    """The lines of one file's text; what is no such line is passed over, as ssh does."""
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split()
        mark = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) >= 3 and not words[0].startswith("#"):
            yield Line(words[0], words[1], words[2], mark, f"{source}:{number}")


def judge(lines: Iterable[Line], name: str, kind: str, key: bytes) -> Finding:
    """Known only when a line for the host has exactly this key and none revokes it."""
    encoded = base64.b64encode(key).decode()
    about = [line for line in lines if line.is_for(name)]
    for line in about:
        if line.mark == "@revoked" and line.key == encoded:
            return Finding("revoked", line.place)
    plain = [line for line in about if not line.mark]
    for line in plain:
        if line.key == encoded and line.kind == kind:
            return Finding("known", line.place)
    if plain:
        same = next((line for line in plain if line.kind == kind), plain[0])
        return Finding("changed", same.place)
    return Finding("unknown", has_authority=any(line.mark == "@cert-authority" for line in about))


def kinds(lines: Iterable[Line], name: str) -> list[str]:
    """The kinds of keys known of a host: asking for these first avoids a false alarm."""
    return list(dict.fromkeys(line.kind for line in lines if not line.mark and line.is_for(name)))


def fingerprint(key: bytes) -> str:
    """SHA256:… as ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def add(path: Path, name: str, kind: str, key: bytes) -> None:
    """Adds a line for the host; other lines stay as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(f"{before}{gap}{name} {kind} {base64.b64encode(key).decode()}\n", encoding="utf-8")
    beside.replace(path)


def _is_hashed(hosts: str, name: str) -> bool:
    try:
        _, salt, digest = hosts.removeprefix("|").split("|")
        wanted = base64.b64decode(digest)
        found = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
    except ValueError:
        return False
    return hmac.compare_digest(wanted, found)


def _escaped(word: str) -> str:
    """ssh knows * and ? only; brackets are part of `[host]:port`."""
    return word.replace("[", "[[]")
