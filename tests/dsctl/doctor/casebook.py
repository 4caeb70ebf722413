"""Reads the case files: one log each, with what the doctor must (and must not) say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsctl.doctor.report import as_json
from dsctl.flows.diagnose import Wish, diagnose

CASES = Path(__file__).resolve().parents[2] / "doctor_cases"


@dataclass
class LogCase:
    """A case: `@@ RULE fires|near|story [| key: value]…` and the log under it; `--- NAME` starts a further file."""

    source: str
    rule: str
    kind: str
    wanted: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.source}-{self.rule}-{self.kind}"


def read_cases(path: Path) -> list[LogCase]:
    cases: list[LogCase] = []
    name = "case.log"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("@@ "):
            head, *options = line[3:].split(" | ")
            rule, kind = head.split()
            case = LogCase(f"{path.stem}:{len(cases)}", rule, kind)
            for option in options:
                key, _, value = option.partition(": ")
                case.wanted.setdefault(key, []).append(value.strip())
            cases.append(case)
            name = "case.log"
        elif line.startswith("--- "):
            name = line[4:].strip()
        elif cases:
            cases[-1].files[name] = cases[-1].files.get(name, "") + line + "\n"
    return cases


def all_cases() -> list[LogCase]:
    return [case for path in sorted(CASES.glob("*.cases")) for case in read_cases(path)]


def run_case(case: LogCase, directory: Path) -> dict[str, Any]:
    """The JSON of the diagnosis of a case's files."""
    for name, text in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    wish = Wish(logs=(str(directory),), config=tuple(case.wanted.get("config", ())))
    return as_json(diagnose(wish), "info")


def rules_of(findings: list[dict[str, Any]]) -> list[str]:
    return [rule for f in findings for rule in (f["rule"], *rules_of(f["children"]))]


def texts_of(findings: list[dict[str, Any]]) -> str:
    own = [f"{f['title']}\n{f['cause']}\n{f['fix']}\n{f['verify']}" for f in findings]
    return "\n".join(own + [texts_of(f["children"]) for f in findings])
