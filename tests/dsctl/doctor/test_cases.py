"""Every case file: what must fire does, with the right words; near misses stay silent; absence is never 'clear'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsctl.base.missing import Missing
from dsctl.doctor.rules import catalogue
from dsctl.flows import checkup
from dsctl.flows.diagnose import Wish, diagnose
from tests.dsctl.doctor.casebook import CASES, LogCase, all_cases, rules_of, run_case, texts_of

ALL = all_cases()
LOG_RULES = [rule for rule in catalogue().values() if rule.literals]


def _top(found: dict[str, Any]) -> list[str]:
    return [f["rule"] for f in found["findings"]]


@pytest.mark.parametrize("case", ALL, ids=lambda c: c.label)
def test_case(case: LogCase, tmp_path: Path) -> None:
    """A case says what it must say and nothing it must not."""
    found = run_case(case, tmp_path)
    rules, said = rules_of(found["findings"]), texts_of(found["findings"])
    if case.kind == "near":
        assert case.rule not in rules
    else:
        assert case.rule in (_top(found) if case.kind == "story" else rules), rules
    if case.kind == "story":
        extra = [f["rule"] for f in found["findings"] if f["severity"] != "info" and f["rule"] != case.rule]
        assert extra == case.wanted.get("also", []), "one story per incident"
    for words in case.wanted.get("says", []):
        assert words in said, said
    for words in case.wanted.get("never", []):
        assert words not in said
    for words in case.wanted.get("host", []):
        assert words in {f["host"] for f in found["findings"]}


def test_every_rule_says_something() -> None:
    """Cause, fix, verification and title of every rule are there; ids are unique by construction; 150 or more stand."""
    assert len(catalogue()) >= 150
    assert [r.id for r in catalogue().values() if not (r.title and r.cause and r.fix and r.verify and r.needs)] == []


def test_no_log_means_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without logs no log rule is clear."""
    monkeypatch.setattr(checkup, "kernel_log", lambda *_: Missing("not permitted"))
    outcomes = {v.rule: v.outcome for v in diagnose(Wish()).verdicts}
    assert {outcomes[rule.id] for rule in LOG_RULES} == {"not checked"}


@pytest.mark.parametrize("kind", ["kernel log", "nginx log", "fabric manager log"])
def test_missing_kind_is_not_clear(kind: str, tmp_path: Path) -> None:
    """A rule whose kind of log is not among the files is not checked, with the reason."""
    (tmp_path / "serve.log").write_text("INFO 11-25 08:00:00 [api.py:1] vllm started\n")
    verdicts = {v.rule: v for v in diagnose(Wish(logs=(str(tmp_path),))).verdicts}
    only = [rule for rule in LOG_RULES if rule.needs[0] == kind]
    assert all(verdicts[r.id].outcome == "not checked" and kind in verdicts[r.id].why for r in only)


@pytest.mark.parametrize("path", sorted((CASES / "benign").glob("*.log")), ids=lambda p: p.stem)
def test_benign_logs_have_no_finding(path: Path) -> None:
    """Normal logs, with all their alarming words, give no finding at all."""
    assert rules_of(_found(path)) == []


def _found(path: Path) -> list[dict[str, Any]]:
    from dsctl.doctor.report import as_json

    return as_json(diagnose(Wish(logs=(str(path),))), "info")["findings"]


def test_every_log_rule_has_both_cases() -> None:
    """Each log rule has a firing case and a near miss."""
    fires = {c.rule for c in ALL if c.kind in ("fires", "story")}
    near = {c.rule for c in ALL if c.kind == "near"}
    xids = {rule.id for rule in LOG_RULES if rule.id.startswith("XID-")}
    assert sorted({r.id for r in LOG_RULES} - fires - xids) == []
    assert sorted({r.id for r in LOG_RULES} - near - xids) == []
