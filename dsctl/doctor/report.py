"""A diagnosis as JSON and as text that a tired person can act on; nothing secret leaves here."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

from dsctl.doctor.model import SEVERITIES, Evidence, Finding, Rule, Severity, Verdict, at_least
from dsctl.doctor.redact import redact, redacted

WIDTH = 120
MOST_REASONS = 10


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found out."""

    findings: list[Finding]
    verdicts: list[Verdict]
    looked_at: list[str]
    passed_over: list[tuple[str, str]] = field(default_factory=lambda: list[tuple[str, str]]())
    unanswered: list[tuple[str, str]] = field(
        default_factory=lambda: list[tuple[str, str]]()
    )  # probes that should have answered
    measured: list[str] = field(default_factory=lambda: list[str]())  # by active tests

    def worst(self) -> Severity | None:
        """The worst severity of any finding, children included."""
        found = {f.severity for root in self.findings for f in _all(root)}
        return next((severity for severity in reversed(SEVERITIES) if severity in found), None)

    def counts(self) -> dict[str, int]:
        """How many rules fired, are clear, do not apply, or were not checked."""
        return {
            state: sum(v.outcome == state for v in self.verdicts)
            for state in ("fired", "clear", "not applicable", "not checked")
        }


def _all(finding: Finding) -> list[Finding]:
    return [finding, *(f for child in finding.children for f in _all(child))]


def visible(findings: list[Finding], threshold: Severity) -> list[Finding]:
    """The stories with something at or above the threshold."""
    return [f for f in findings if any(at_least(g.severity, threshold) for g in _all(f))]


def as_json(diagnosis: Diagnosis, threshold: Severity = "warning") -> dict[str, Any]:
    """The JSON object, redacted; the cli adds `schema_version`."""
    value = {
        "findings": [_finding(f) for f in visible(diagnosis.findings, threshold)],
        "not_checked": [{"rule": v.rule, "why": v.why} for v in diagnosis.verdicts if v.outcome == "not checked"],
        "not_applicable": [{"rule": v.rule, "why": v.why} for v in diagnosis.verdicts if v.outcome == "not applicable"],
        "looked_at": diagnosis.looked_at,
        "measured": diagnosis.measured,
        "passed_over": [{"what": what, "why": why} for what, why in diagnosis.passed_over],
        "unanswered": [{"probe": probe, "why": why} for probe, why in diagnosis.unanswered],
        "summary": {key.replace(" ", "_"): n for key, n in diagnosis.counts().items()},
    }
    return redacted(value)  # pyright: ignore[reportReturnType]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.id,
        "severity": finding.severity,
        "host": finding.host,
        "title": finding.title,
        "cause": finding.cause,
        "fix": finding.fix,
        "verify": finding.verify,
        "evidence": [{"file": e.file, "line": e.line, "text": e.text} for e in finding.evidence],
        "children": [_finding(child) for child in finding.children],
        "gpu": finding.gpu,
        "ranks": list(finding.ranks),
        "count": finding.count,
        "affects": finding.rule.affects,
        "category": finding.rule.category,
        "solver": [
            {
                "param": o.param,
                "current": o.current,
                "suggested": o.suggested,
                "predicted_margin_bytes": o.margin_bytes,
                "note": o.note,
            }
            for o in finding.options
        ],
        "reference": finding.rule.see,
    }


def as_text(diagnosis: Diagnosis, threshold: Severity = "warning", width: int = WIDTH) -> str:
    """The report for people; sentences are broken at `width` columns, quoted lines are not."""
    lines: list[str] = []
    shown = visible(diagnosis.findings, threshold)
    for number, finding in enumerate(shown, 1):
        lines += [*_story(finding, number, width), ""]
    counts = diagnosis.counts()
    hidden = len(diagnosis.findings) - len(shown)
    if not shown:
        lines.append(_nothing(diagnosis, threshold, hidden))
    if hidden:
        lines.append(f"{hidden} of lesser severity not shown (--threshold info).")
    lines.append(
        f"{len(shown)} finding{'' if len(shown) == 1 else 's'}. Rules: {counts['fired']} fired, {counts['clear']} clear, "
        f"{counts['not applicable']} not applicable, {counts['not checked']} not checked."
    )
    lines += limits(diagnosis)
    return redact("\n".join(lines))


def _nothing(diagnosis: Diagnosis, threshold: Severity, hidden: int) -> str:
    """What to say without a finding: a silence has several reasons."""
    if not diagnosis.looked_at:
        return "Nothing could be looked at."
    return f"No finding from {threshold} on." if hidden else "No finding in what was looked at."


def limits(diagnosis: Diagnosis) -> list[str]:
    """What was looked at and what was not, plainly."""
    lines = [
        "Looked at: "
        + (", ".join(diagnosis.looked_at[:8]) + (" …" if len(diagnosis.looked_at) > 8 else "") or "nothing")
    ]
    lines += [f"  measured {line}" for line in diagnosis.measured]
    lines += [f"  passed over {what}: {why}" for what, why in diagnosis.passed_over[:10]]
    lines += [f"  no answer from {probe}: {why}" for probe, why in diagnosis.unanswered]
    reasons: dict[str, int] = {}
    for verdict in diagnosis.verdicts:
        if verdict.outcome in ("not checked", "not applicable"):
            reasons[f"{verdict.outcome}: {verdict.why}"] = reasons.get(f"{verdict.outcome}: {verdict.why}", 0) + 1
    told = sorted(reasons.items(), key=lambda item: -item[1])
    lines += [f"  {n} rule{'' if n == 1 else 's'} {why}" for why, n in told[:MOST_REASONS]]
    if rest := sum(n for _, n in told[MOST_REASONS:]):
        lines.append(f"  {rest} rule{'' if rest == 1 else 's'} for {len(told) - MOST_REASONS} more reasons (--json)")
    return lines


def _story(finding: Finding, number: int, width: int) -> list[str]:
    mark = {"critical": "CRITICAL", "warning": "WARNING", "info": "INFO"}[finding.severity]
    where = f" · {finding.host}" if finding.host else ""
    times = f" · {finding.count}×" if finding.count > 1 else ""
    lines = [f"{number}. {mark}{where}  {finding.title}  [{finding.rule.id}]{times}"]
    for name, text in (("why", finding.cause), ("fix", finding.fix), ("check", finding.verify)):
        lines += _block(name, text, width)
    lines += [f"   {place(e)}: {e.text[:300]}" for e in finding.evidence]
    lines += [line for child in finding.children for line in _child(child, 1)]
    return lines


def place(evidence: Evidence) -> str:
    """Where a quoted line stands."""
    return f"{evidence.file}:{evidence.line}" if evidence.line else evidence.file


def _child(finding: Finding, level: int) -> list[str]:
    pad = "   " * level
    where = f" on {finding.host}" if finding.host else ""
    at = f" ({place(finding.evidence[0])})" if finding.evidence else ""
    lines = [f"{pad}└ led to: {finding.title}{where} [{finding.rule.id}]{at}"]
    return lines + [line for child in finding.children for line in _child(child, level + 1)]


def _block(name: str, text: str, width: int = WIDTH) -> list[str]:
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        lines += textwrap.wrap(paragraph, max(30, width - 10), break_long_words=False, break_on_hyphens=False) or [""]
    return [f"   {(name + ':') if at == 0 else '':<7}{line}" for at, line in enumerate(lines)]


def explain(rule: Rule) -> str:
    """One rule of the catalogue, for people."""
    lines = [
        f"{rule.id}  {rule.title}",
        f"   severity: {rule.severity}   area: {rule.category}   affects: {rule.affects}",
        f"   needs: {' or '.join(rule.needs)}",
    ]
    lines += _block("why", rule.cause) + _block("fix", rule.fix) + _block("check", rule.verify)
    if rule.see:
        lines.append(f"   see: {rule.see}")
    return re.sub(r"\{(\w+)\}", r"<\1>", "\n".join(lines))


def rule_json(rule: Rule) -> dict[str, Any]:
    """One rule as JSON."""
    return {
        "rule": rule.id, "title": rule.title, "severity": rule.severity, "category": rule.category, "needs": list(rule.needs),
        "affects": rule.affects, "cause": rule.cause, "fix": rule.fix, "verify": rule.verify, "reference": rule.see,
    }  # fmt: skip
