"""The facts about dsctl that the model learns, read from `facts/*.txt`, and the keys by which an answer is judged."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "facts"
_FIELDS = ("think", "answer", "verb", "code", "do", "ask", "when", "dev", "test")
_GROUP = re.compile(r"\(([^()]*\|[^()]*)\)")
# What decides an answer: a quoted command with all its words and its number, a flag, an exit code, a name in capitals,
# a file, a route or an address. Other words in capitals are placeholders and do not count.
_KEYS = re.compile(
    r"(?<=`)dsctl(?: [a-z]+)+(?: \d+| N\b)?|(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[a-z]\b|[Ee]xit code \d+"
    r"|DSCTL_HOME|dsctl\.yaml|/v1/[a-z/]+|127\.0\.0\.1|dsctl-tiny|\b[Tt]hree\b"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know: a short thought, the answer, and the patterns of questions about it."""

    name: str
    think: str
    answer: str
    verb: str = ""
    code: str = ""
    do: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def keys(answer: str) -> frozenset[str]:
    """Commands, flags, codes and names in an answer; two answers with equal keys tell a user to do the same."""
    return frozenset(found.lower() for found in _KEYS.findall(answer))


def options(pattern: str) -> list[tuple[int, int, list[str]]]:
    """Innermost alternatives of a pattern as (start, end, choices)."""
    return [(m.start(), m.end(), m.group(1).split("|")) for m in _GROUP.finditer(pattern)]


def load(folder: Path = FOLDER) -> list[Fact]:
    """Read every block of every file; raises ValueError with file and line for a line that is none."""
    facts: list[Fact] = []
    for path in sorted(folder.glob("*.txt")):
        facts += _read(path)
    return facts


def _read(path: Path) -> list[Fact]:
    blocks: list[dict[str, list[str]]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            blocks.append({"name": [line.strip("[]")]})
            continue
        field, colon, value = line.partition(": ")
        if not colon or not blocks or field not in _FIELDS:
            raise ValueError(f"{path.name}:{number}: expected 'field: text' inside a [block], got {line!r}")
        blocks[-1].setdefault(field, []).append(value)
    return [_fact(block) for block in blocks]


def _fact(block: dict[str, list[str]]) -> Fact:
    def one(field: str) -> str:
        return block.get(field, [""])[0]

    def many(field: str) -> tuple[str, ...]:
        return tuple(block.get(field, ()))

    return Fact(
        name=one("name"),
        think=one("think"),
        answer=one("answer"),
        verb=one("verb"),
        code=one("code"),
        do=many("do"),
        ask=many("ask"),
        when=many("when"),
        dev=many("dev"),
        test=many("test"),
    )
