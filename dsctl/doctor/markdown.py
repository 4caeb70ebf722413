"""A diagnosis as Markdown, to paste into a ticket."""

from __future__ import annotations

from dsctl.doctor.model import Finding, Severity
from dsctl.doctor.redact import redact
from dsctl.doctor.report import Diagnosis, limits, place, visible


def as_markdown(diagnosis: Diagnosis, threshold: Severity = "warning") -> str:
    """Headings per finding, the quoted lines in code blocks, what was not looked at in the end; redacted."""
    shown = visible(diagnosis.findings, threshold)
    counts = diagnosis.counts()
    lines = [f"# Diagnosis: {len(shown)} finding{'' if len(shown) == 1 else 's'}", ""]
    for number, finding in enumerate(shown, 1):
        lines += [*_story(finding, number), ""]
    lines.append(", ".join(f"{n} {state}" for state, n in counts.items()) + " (rules).")
    lines += ["", "<details><summary>What was looked at</summary>", ""]
    lines += [f"- {line.strip()}" for line in limits(diagnosis)]
    lines += ["", "</details>"]
    return redact("\n".join(lines))


def _story(finding: Finding, number: int) -> list[str]:
    where = f" on `{finding.host}`" if finding.host else ""
    lines = [
        f"## {number}. {finding.title}",
        "",
        f"**{finding.severity}**{where} · `{finding.rule.id}`" + (f" · {finding.count}×" if finding.count > 1 else ""),
        "",
        f"**Why:** {finding.cause}",
        "",
        "**Fix:**" + _listed(finding.fix),
        "",
        f"**Check:** {finding.verify}",
    ]
    if finding.evidence:
        fence = "```" if not any("```" in e.text for e in finding.evidence) else "````"
        lines += ["", f"{fence}text", *(f"{place(e)}: {e.text[:300]}" for e in finding.evidence), fence]
    for child in finding.children:
        lines += _child(child, 0)
    return lines


def _listed(text: str) -> str:
    """One line stays in its paragraph; several become a list."""
    parts = text.splitlines()
    return f" {text}" if len(parts) < 2 else "\n\n" + "\n".join(f"- {part}" for part in parts)


def _child(finding: Finding, level: int) -> list[str]:
    where = f" on `{finding.host}`" if finding.host else ""
    at = f" ({place(finding.evidence[0])})" if finding.evidence else ""
    own = ["", *([] if level else ["Led to:", ""])] if not level else []
    line = f"{'  ' * level}- {finding.title}{where} `{finding.rule.id}`{at}"
    return [*own, line, *(inner for child in finding.children for inner in _child(child, level + 1))]
