"""Finds the few lines of a large log that any rule could care about, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from dsctl.facts.logtext import Spoken, plain, read, stamp

LONGEST_LINE = 64 * 1024  # bytes of a line that are looked at
BEHIND = 48 * 1024  # bytes kept before a block, for the lines that led to a hit
AHEAD_LINES = 12
BEHIND_LINES = 90
WITH_BEFORE = 200  # hits of one literal that keep their neighbours
PER_LITERAL = 2000  # hits of one literal in one file that are looked at; the rest is only counted
PER_FILE = 8000


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that may matter, with its neighbours. `number` counts from 1."""

    file: str
    number: int
    said: Spoken
    after: tuple[str, ...] = ()  # next lines, without wrapping
    before: tuple[str, ...] = ()  # previous lines, without wrapping, oldest first

    @property
    def window(self) -> str:
        """The line and what follows it, for messages of several lines."""
        return "\n".join((self.said.text, *self.after))


@dataclass(slots=True)
class Scan:
    """What one file holds: its hits, how much was read, and its end."""

    file: str
    hits: list[Hit] = field(default_factory=lambda: list[Hit]())
    lines: int = 0
    bytes: int = 0
    skipped: int = 0  # hits beyond the caps
    head: str = ""
    tail: str = ""
    counts: dict[str, int] = field(default_factory=lambda: dict[str, int]())  # literal → lines with it


class Scanner:
    """All literals in one automaton (the Aho–Corasick library), used for any number of files."""

    def __init__(self, literals: Iterable[str]) -> None:
        from ahocorasick_rs import BytesAhoCorasick, Implementation

        self._words = sorted({word.lower() for word in literals})
        # As a table (DFA) it takes some MB and reads nearly twice as fast as the automaton that is compact.
        self._automaton = BytesAhoCorasick([word.encode() for word in self._words], implementation=Implementation.DFA)

    def positions(self, block: bytes) -> list[tuple[int, int]]:
        """(literal's number, offset of its start) of every hit in `block`, in order."""
        found = self._automaton.find_matches_as_indexes(block.lower(), overlapping=False)
        return [(number, start) for number, start, _ in found]

    def word(self, number: int) -> str:
        """The literal with that number."""
        return self._words[number]


def scan(
    name: str, blocks: Iterable[bytes], scanner: Scanner, *, tail_bytes: int = 1 << 20,
    told: Callable[[int], None] | None = None,
) -> Scan:  # fmt: skip
    """Reads `blocks` of a file. `told` is called with the bytes of every block (for a progress bar)."""
    result = Scan(name)
    head, tail = b"", b""
    for behind, fresh, ahead in _windows(blocks):
        _look(result, scanner, behind, fresh, ahead)
        result.bytes += len(fresh)
        if len(head) < 256 * 1024:
            head += fresh[: 256 * 1024 - len(head)]
        tail = (tail + fresh)[-tail_bytes:] if len(fresh) < tail_bytes else fresh[-tail_bytes:]
        if told is not None:
            told(len(fresh))
    result.head, result.tail = _text(head), _text(tail)
    return result


def _windows(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(what came before, whole lines to look at, what comes after): no line is cut, and hits see their neighbours."""
    behind, held = b"", b""
    for block in blocks:
        held += block
        cut = _hold_back(held)
        if cut <= 0:
            if len(held) > 64 * LONGEST_LINE:  # one endless line: keep its beginning
                held = held[:LONGEST_LINE]
            continue
        fresh, held = held[:cut], held[cut:]
        yield behind, fresh, held
        behind = fresh[-BEHIND:] if len(fresh) >= BEHIND else (behind + fresh)[-BEHIND:]
    if held:
        yield behind, held if held.endswith(b"\n") else held + b"\n", b""


def _hold_back(data: bytes) -> int:
    """Where to cut so that the last AHEAD_LINES whole lines stay for the next round; 0 when there are too few."""
    at = data.rfind(b"\n")
    for _ in range(AHEAD_LINES):
        if at <= 0:
            return 0
        at = data.rfind(b"\n", 0, at)
    return at + 1


def _look(result: Scan, scanner: Scanner, behind: bytes, fresh: bytes, ahead: bytes) -> None:
    """Adds the hits of one block, and its lines, to `result`."""
    end, counted = -1, 0
    for literal, start in scanner.positions(fresh):
        if start < end:
            continue
        word = scanner.word(literal)
        seen = result.counts[word] = result.counts.get(word, 0) + 1
        if seen > PER_LITERAL or len(result.hits) >= PER_FILE:
            result.skipped += 1
            continue
        begin = fresh.rfind(b"\n", 0, start) + 1
        end = fresh.find(b"\n", start)
        end = len(fresh) if end < 0 else end
        result.lines += fresh.count(b"\n", counted, begin)
        counted = begin
        is_early = seen <= WITH_BEFORE
        parts = (behind, fresh, ahead) if is_early else (b"", fresh, b"")
        result.hits.append(_hit(result.file, result.lines + 1, parts, (begin, end), is_early=is_early))
    result.lines += fresh.count(b"\n", counted)


def _hit(file: str, number: int, parts: tuple[bytes, bytes, bytes], span: tuple[int, int], *, is_early: bool) -> Hit:
    """A hit with its neighbours; in a flood the later ones have only the line itself."""
    behind, fresh, ahead = parts
    begin, end = span
    said = read(_text(fresh[begin : min(end, begin + LONGEST_LINE)]))
    if not is_early:
        return Hit(file, number, said)
    reach = LONGEST_LINE // 4
    after = (fresh[end + 1 : end + 1 + reach] + (ahead[:reach] if end + reach > len(fresh) else b"")).split(b"\n")
    after_text = tuple(read(_text(raw[:4096])).text for raw in after[:AHEAD_LINES])
    start = max(0, begin - reach)
    before = ((behind[-reach:] if begin < reach else b"") + fresh[start:begin]).split(b"\n")[-BEHIND_LINES - 1 : -1]
    before_text = [_text(raw[:2048]) for raw in before]
    if said.stamp is None:
        when = next((s for s in map(stamp, reversed(before_text)) if s is not None), None)
        said = replace(said, stamp=when)
    return Hit(file, number, said, after_text, tuple(plain(line) for line in before_text))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
