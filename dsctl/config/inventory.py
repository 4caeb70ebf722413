"""The hosts an operator may name: groups and hosts from a file of ours or Ansible's, chosen by patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from dsctl.base.errors import ConfigError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
RANGE = re.compile(r"\[(\d+)[-:](\d+)\]")
MOST = 10_000  # hosts of one range; more is a slip of the pen


@dataclass(frozen=True, slots=True)
class Entry:
    """One host as the inventory describes it; what is empty is left to ~/.ssh/config."""

    name: str
    address: str = ""
    port: int = 0
    user: str = ""
    identity: str = ""  # file of a private key
    jump: str = ""  # host to go through
    fabric: str = ""  # address, or name of the interface, that hosts reach each other by
    python: str = ""  # only remembered for Ansible


@dataclass(frozen=True, slots=True)
class Inventory:
    """All hosts by name and the groups they are in."""

    hosts: Mapping[str, Entry] = field(default_factory=lambda: dict[str, Entry]())
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict[str, tuple[str, ...]]())
    source: Path | None = None

    def select(self, pattern: str, where: str = "--hosts", base: Path | None = None) -> tuple[Entry, ...]:
        """The hosts a pattern names, each once, in the pattern's order.

        Comma or colon joins, `!x` takes away, `&x` keeps only, `@file` reads one pattern a line. A part that names
        nothing is a UsageError with the nearest name, and so is a pattern that leaves no host.
        """
        chosen: dict[str, None] = {}
        for part in _parts(pattern, base or Path.cwd(), where):
            mark, word = (part[0], part[1:]) if part[0] in "!&" else ("", part)
            names = self._names(word, where)
            if mark == "!":
                chosen = {name: None for name in chosen if name not in names}
            elif mark == "&":
                chosen = {name: None for name in chosen if name in names}
            else:
                chosen |= dict.fromkeys(names)
        if not chosen:
            raise UsageError(f"{where}: {pattern!r} leaves no host", hint="dsctl hosts ls")
        return tuple(self.hosts.get(name, Entry(name)) for name in chosen)

    def _names(self, word: str, where: str) -> list[str]:
        if word == "all" and "all" not in self.groups:
            return list(self.hosts)
        if word in self.groups:
            return list(self.groups[word])
        if any(mark in word for mark in "*?"):
            known = [*self.hosts]
            found = [name for name in known if fnmatchcase(name, word)]
            found += [n for g, members in self.groups.items() if fnmatchcase(g, word) for n in members]
        else:
            found = expand(word, where)
            strange = [name for name in found if name not in self.hosts]
            if strange and self.source is not None:
                found = []
        if found:
            return found
        near = get_close_matches(word, [*self.groups, *self.hosts], n=1, cutoff=0.5)
        tail = f"; did you mean {near[0]!r}?" if near else ""
        inside = f" in {self.source}" if self.source else ""
        raise UsageError(f"{where}: no host or group {word!r}{inside}{tail}", hint="dsctl hosts ls shows what there is")


def expand(word: str, where: str) -> list[str]:
    """`gpu0[1-3]` as gpu01, gpu02, gpu03; `[08-11]` keeps its zeros. ConfigError when a name could not be a host's."""
    found = RANGE.search(word)
    if found is None:
        if not NAME.fullmatch(word):
            raise ConfigError(
                f"{where}: {word!r} cannot be the name of a host", hint="letters, digits, '.', '_' and '-'"
            )
        return [word]
    low, high = found[1], found[2]
    if int(high) < int(low) or int(high) - int(low) >= MOST:
        raise ConfigError(f"{where}: {word!r}: the range goes from {low} to {high}", hint="gpu0[1-4]")
    width = len(low) if low.startswith("0") or len(low) == len(high) else 0
    heads = [f"{word[: found.start()]}{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    return [name for head in heads for name in expand(head + word[found.end() :], where)]


def expand_all(words: Iterable[str], where: str) -> list[str]:
    """Every word expanded, each name once."""
    return list(dict.fromkeys(name for word in words for name in expand(word, where)))


def _parts(pattern: str, base: Path, where: str) -> list[str]:
    """The pattern's words; commas, blanks and colons (but not those of a range) part them."""
    parts: list[str] = []
    for word in re.split(r"[,\s]+|:(?![^\[]*\])", pattern.strip()):
        if not word:
            continue
        if not word.startswith("@"):
            parts.append(word)
            continue
        path = base / word[1:]
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"{where}: {path} cannot be read: {error.strerror}") from error
        named = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        parts += [part for line in named for part in _parts(line, base, where) if not line.startswith("@")]
    return parts
