"""The values of a diagnosis: evidence, rules as table entries, verdicts and findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from dsctl.facts.logscan import Hit

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
Outcome = Literal["fired", "clear", "not applicable", "not checked"]


def at_least(severity: Severity, wanted: Severity) -> bool:
    """True when `severity` is `wanted` or worse."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(wanted)


@dataclass(frozen=True, slots=True)
class Option:
    """One way out that was computed: what to set, from which value to which, and what is left over."""

    param: str
    current: str
    suggested: str
    margin_bytes: int | None = None  # memory left when it is done; None when it cannot be computed
    note: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What a rule has to say about one case; empty fields leave the table's words standing."""

    title: str = ""
    cause: str = ""
    fix: str = ""
    verify: str = ""
    rule: str = ""  # another rule whose words fit this case better
    severity: Severity | None = None
    gpu: str = ""
    host: str = ""
    ranks: tuple[int, ...] = ()
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the catalogue. A log rule has `literals` and `pattern`; a live rule is judged from a fact.

    `depth` is the place in a chain of causes: 0 hardware, kernel or host; 1 direct cause; 2 its effect in a process;
    3 what other processes see; 4 the last words of a program. Effects (2 and above) become children of causes.
    """

    id: str
    title: str
    severity: Severity
    category: str
    needs: tuple[str, ...]  # kinds of evidence that can show it; without the first it is never called clear
    cause: str
    fix: str
    verify: str
    affects: str = "serving"
    literals: tuple[str, ...] = ()
    pattern: str = ""
    unless: str = ""  # a match of this in the line or its surroundings means all is well
    spans: bool = False  # the message may go on in the next lines
    depth: int = 1
    least: int = 1  # matches that make a finding
    refine: str = ""  # name of the function that works out this rule's numbers
    see: str = ""

    @property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return compiled(self.pattern)

    @property
    def is_symptom(self) -> bool:
        """True for effects, which are told as part of their cause's story."""
        return self.depth >= 2


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, compiled once."""
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quoted line."""

    file: str
    line: int
    text: str


@dataclass(slots=True)
class Finding:
    """A rule that fired, in words, with its evidence and what it led to."""

    rule: Rule
    title: str
    cause: str
    fix: str
    verify: str
    severity: Severity
    host: str = ""
    gpu: str = ""
    ranks: tuple[int, ...] = ()
    evidence: list[Evidence] = field(default_factory=lambda: list[Evidence]())
    count: int = 1
    first: float | None = None  # seconds of the year
    last: float | None = None
    options: tuple[Option, ...] = ()
    children: list[Finding] = field(default_factory=lambda: list["Finding"]())
    files: set[str] = field(default_factory=lambda: set[str]())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one rule, and why where it was not judged."""

    rule: str
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A rule's pattern found in a log line."""

    rule: Rule
    hit: Hit
    groups: Mapping[str, str]


Refine = Callable[[Match, "Case"], Words | None]


@dataclass(slots=True)
class LogSource:
    """What is known about one log file."""

    name: str
    kinds: frozenset[str]  # kernel, torch, nccl, vllm, sglang, container, service
    host: str = ""
    rank: int | None = None
    tail: str = ""
    lines: int = 0


@dataclass(slots=True)
class Case:
    """All evidence of one diagnosis. A kind of evidence that is absent is in `missing` with its reason."""

    hits: list[Hit] = field(default_factory=lambda: list[Hit]())
    sources: dict[str, LogSource] = field(default_factory=lambda: dict[str, LogSource]())
    missing: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    settings: dict[str, str] = field(default_factory=lambda: dict[str, str]())  # serving options, canonical names
    origin: str = ""  # where the settings were found
    shape: dict[str, object] = field(default_factory=lambda: dict[str, object]())  # the model's config.json
    facts: dict[str, object] = field(default_factory=lambda: dict[str, object]())  # live facts by name

    def host_of(self, hit: Hit) -> str:
        """Who said a line: the line itself, else its file."""
        if hit.said.host:
            return hit.said.host
        source = self.sources.get(hit.file)
        return source.host if source else ""

    def rank_of(self, hit: Hit) -> int | None:
        """The rank that said a line: the line itself, else its file."""
        if hit.said.rank is not None:
            return hit.said.rank
        source = self.sources.get(hit.file)
        return source.rank if source else None
