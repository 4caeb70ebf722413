"""Judges every rule of the catalogue on the evidence: fired, clear, not applicable, or not checked and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from dsctl.doctor.model import Case, Evidence, Finding, Match, Rule, Verdict, Words, compiled
from dsctl.doctor.refine import BY_NAME
from dsctl.doctor.rules import catalogue
from dsctl.doctor.xid import BY_NUMBER, LINE
from dsctl.facts.logscan import Hit

MOST_REFINED = 64  # matches of one rule whose numbers are worked out; the rest is counted
MOST_EVIDENCE = 3
NEVER = "(never alone)"

# Text of users or of source code that speaks about an error is not the error.
QUOTED = re.compile(
    r"""Received request|GenerateReqInfo|CompletionRequest\(|\b(?:text|messages|prompts?|inputs?)=['"\[]|\bprompt(?:_text)?['"]?\s*[:=]|['"](?:content|prompt|messages|query|question|input|instruction)['"]\s*:"""
    r"""|\brole['"]?\s*[:=]\s*['"]user|\braise\s+[A-Z]\w*\(|\blog(?:ger|ging)?\.\w+\(|\bprint\(|\becho\s|\bgrep\s|\bre\.\w+\(|^\s*assert\b"""
    r"""|"(?:GET|POST|PUT|HEAD|DELETE) /|^\s*#(?!\s*\d+\s+0x)|^\s*>\s|^\s*//|^\s*\*\s|^\s*--?[a-z][\w-]+[ ,]|\bif ['"]|\bexcept\b|\bexpr:|\bsummary:|\bdescription:"""
)


def is_quoted(text: str, start: int) -> bool:
    """True when the words at `start` are quoted by a person or stand in source code."""
    head = text[:start]
    return bool(QUOTED.search(head)) or head.count("`") % 2 == 1


def literals() -> list[str]:
    """Every literal that the reader must look for."""
    from dsctl.doctor.context import LITERALS

    own = [word for rule in catalogue().values() for word in rule.literals if word != NEVER]
    return [*own, *LITERALS]


def matches(case: Case, rules: Iterable[Rule]) -> list[Match]:
    """Every rule's pattern in every hit, quotations left out."""
    if not case.hits:
        return []
    by_word: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        for word in rule.literals:
            if word != NEVER:
                by_word[word].append(rule)
    found: list[Match] = []
    for hit in case.hits:
        line = hit.said.text.lower()
        wanted = {rule.id: rule for word, some in by_word.items() if word in line for rule in some}
        found += [match for rule in wanted.values() if (match := _match(rule, hit)) is not None]
        if (
            "XID-UNKNOWN" in {r.id for r in by_word.get("nvrm: xid", ())}
            and (other := LINE.search(hit.said.text))
            and int(other["xid"]) not in BY_NUMBER
        ):
            found.append(Match(catalogue()["XID-UNKNOWN"], hit, {"bdf": other["bdf"], "xid": other["xid"]}))
    return found


def _match(rule: Rule, hit: Hit) -> Match | None:
    text = hit.window if rule.spans else hit.said.text
    found = rule.regex.search(text)
    if found is None or found.start() > len(hit.said.text) or is_quoted(hit.said.text, found.start()):
        return None
    if rule.unless:
        around = "\n".join((hit.said.text, *hit.after[:3])) if rule.spans else hit.said.text
        if compiled(rule.unless).search(around):
            return None
    if sum(line.lstrip().startswith("```") for line in hit.before) % 2 == 1:
        return None
    return Match(rule, hit, {k: (v or "").strip().rstrip(".,;") for k, v in found.groupdict().items()})


def findings(case: Case, found: list[Match]) -> list[Finding]:
    """Matches gathered by rule, host and card, in words."""
    counts: dict[str, int] = defaultdict(int)
    for match in found:
        counts[match.rule.id] += 1
    gathered: dict[tuple[str, str, str], Finding] = {}
    refined: dict[str, int] = defaultdict(int)
    for match in found:
        if counts[match.rule.id] < match.rule.least:
            continue
        refined[match.rule.id] += 1
        words = _words(match, case, refined[match.rule.id])
        if words is not None and words.rule == "(none)":
            continue
        rule = catalogue()[words.rule] if words and words.rule else match.rule
        host = (words.host if words else "") or case.host_of(match.hit)
        key = (rule.id, host, words.gpu if words and rule.category == "gpu" else "")
        if key in gathered:
            _more(gathered[key], match, case)
        else:
            gathered[key] = _finding(rule, match, words or Words(), host, case)
    return [finding for finding in gathered.values() if finding.count >= finding.rule.least]


def _words(match: Match, case: Case, number: int) -> Words | None:
    """The worked-out words of a match; numbers that no machine could have had leave the table's words."""
    name = match.rule.refine
    if not name or (number > MOST_REFINED and name not in ("xid", "shmbc")):
        return None
    try:
        return BY_NAME[name](match, case)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


def _finding(rule: Rule, match: Match, words: Words, host: str, case: Case) -> Finding:
    rank = case.rank_of(match.hit)
    finding = Finding(
        rule, words.title or fill(rule.title, match), words.cause or fill(rule.cause, match), words.fix or fill(rule.fix, match),
        words.verify or fill(rule.verify, match), words.severity or rule.severity, host, words.gpu,
        words.ranks or ((rank,) if rank is not None else ()), options=words.options, count=0,
    )  # fmt: skip
    _more(finding, match, case)
    return finding


def _more(finding: Finding, match: Match, case: Case) -> None:
    hit = match.hit
    finding.count += 1
    finding.files.add(hit.file)
    if len(finding.evidence) < MOST_EVIDENCE:
        finding.evidence.append(quote(hit))
    if hit.said.stamp is not None:
        finding.first = hit.said.stamp if finding.first is None else min(finding.first, hit.said.stamp)
        finding.last = hit.said.stamp if finding.last is None else max(finding.last, hit.said.stamp)
    rank = case.rank_of(hit)
    if rank is not None and rank not in finding.ranks and finding.rule.id != "ELASTIC-FAIL":
        finding.ranks = tuple(sorted({*finding.ranks, rank}))


def quote(hit: Hit) -> Evidence:
    """A line as evidence."""
    return Evidence(hit.file, hit.number, hit.said.shown.strip()[:600])


def fill(template: str, match: Match) -> str:
    """The table's words with this case's values; names that stand together are alternatives, `?` when none is known
    (in brackets: nothing)."""

    def value(names: re.Match[str]) -> str:
        return "".join(match.groups.get(name, "") for name in re.findall(r"\w+", names[0])) or "?"

    return re.sub(r" \([^()]{0,60}?\?\)", "", re.sub(r"(?:\{\w+\})+", value, template))


def verdicts(case: Case, fired: set[str], rules: Iterable[Rule]) -> list[Verdict]:
    """What became of every rule. A rule is clear only if the kind of evidence it needs was there."""
    result: list[Verdict] = []
    kinds = {kind for source in case.sources.values() for kind in source.kinds}
    for rule in rules:
        if rule.id in fired:
            result.append(Verdict(rule.id, "fired"))
        elif rule.needs[0] in kinds or (rule.needs[0] in case.facts and rule.needs[0] not in case.missing):
            absent = case.facts.get(rule.needs[0])
            inapplicable = isinstance(absent, str)
            result.append(
                Verdict(rule.id, "not applicable" if inapplicable else "clear", str(absent) if inapplicable else "")
            )
        else:
            why = next(
                (case.missing[need] for need in rule.needs if need in case.missing),
                f"no {' or '.join(dict.fromkeys(rule.needs))} was given",
            )
            result.append(Verdict(rule.id, "not checked", why))
    return result
