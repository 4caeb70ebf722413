"""What the doctor must not do: depend on a log's wrapping, crash on damage, or call clear what it did not look at."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.missing import Missing
from dsctl.doctor import judge
from dsctl.doctor.context import KINDS
from dsctl.doctor.markdown import as_markdown
from dsctl.doctor.model import Case, LogSource, Rule
from dsctl.doctor.report import as_json, as_text
from dsctl.doctor.rules import catalogue
from dsctl.flows import fleetlook, hostcheck
from dsctl.flows.diagnose import Wish, diagnose
from dsctl.reach import cards, vitals
from tests.dsctl.doctor.casebook import LogCase, all_cases, run_case
from tests.dsctl.doctor.test_hosts import answer

WRAPPINGS: dict[str, Callable[[str], str]] = {
    "colours": lambda line: f"\x1b[31m{line}\x1b[0m",
    "carriage returns": lambda line: f"{line}\r",
    "docker json": lambda line: json.dumps({"log": f"{line}\n", "stream": "stderr"}),
    "json lines": lambda line: json.dumps({"level": "error", "message": line}),
    "journal json": lambda line: json.dumps({"PRIORITY": "3", "MESSAGE": line}),
    "kubernetes": lambda line: f"2026-10-05T13:00:00.123456789Z stderr F {line}",
    "compose": lambda line: f"engine-1  | {line}",
    "pod": lambda line: f"[pod/r1-abc/vllm] {line}",
}
TOLD = [case for case in all_cases() if case.kind in ("fires", "story")]
RULES = list(catalogue().values())


def _tops(case: LogCase, directory: Path) -> list[str]:
    directory.mkdir()
    return [f["rule"] for f in run_case(case, directory)["findings"]]


def _wrapped(case: LogCase, name: str) -> LogCase:
    files = {
        key: "".join(f"{WRAPPINGS[name](line)}\n" for line in text.splitlines()) for key, text in case.files.items()
    }
    return LogCase(case.source, case.rule, case.kind, case.wanted, files)


def _differ(cases: list[tuple[LogCase, str]], directory: Path) -> list[Any]:
    found: list[Any] = []
    for number, (case, name) in enumerate(cases):
        plain, wrapped = _tops(case, directory / f"{number}a"), _tops(_wrapped(case, name), directory / f"{number}b")
        if plain != wrapped and not (
            name == "kubernetes" and case.kind == "story"
        ):  # one time for all breaks the order
            found.append((case.label, name, plain, wrapped))
    return found


def test_wrapping_does_not_matter(tmp_path: Path) -> None:
    """Every third case, each in another wrapping, gives the findings of the plain log."""
    names = list(WRAPPINGS)
    assert _differ([(case, names[n % len(names)]) for n, case in enumerate(TOLD[::3])], tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(WRAPPINGS))
def test_no_wrapping_matters_anywhere(name: str, tmp_path: Path) -> None:
    """Every case in every wrapping gives the findings of the plain log."""
    assert _differ([(case, name) for case in TOLD], tmp_path) == []


@pytest.mark.long
def test_ten_thousand_damaged_lines_never_crash(tmp_path: Path) -> None:
    """10 000 lines of the cases, cut, mixed, doubled and with foreign bytes, in 100 logs: always a diagnosis."""
    rng = random.Random(60)
    lines = [line for case in all_cases() for text in case.files.values() for line in text.splitlines()]
    for number in range(100):
        path = tmp_path / f"{number}.log"
        path.write_bytes(b"\n".join(_damaged(rng, lines) for _ in range(100)))
        diagnose(Wish(logs=(str(path),)))


def _damaged(rng: random.Random, lines: list[str]) -> bytes:
    raw = bytearray(rng.choice(lines).encode())
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(raw) + 1)
        raw[at : at + rng.randrange(6)] = bytes(rng.randrange(256) for _ in range(rng.randrange(5)))
    words = rng.choice(lines).encode()
    return bytes(rng.choice([raw, raw + words, words[: len(words) // 2] + raw, raw * 3, raw.replace(b"0", b"9" * 40)]))


def _everything() -> Case:
    """A case in which every probe answered and nothing is wrong."""
    case = Case(sources={"x.log": LogSource("x.log", frozenset(KINDS))})
    case.facts = {need: [] for rule in RULES for need in rule.needs if not need.endswith(" log")}
    return case


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.id)
def test_a_removed_probe_is_not_checked(rule: Rule) -> None:
    """With everything there a rule is clear; without the evidence it needs it is not checked, and says why."""
    whole, without = _everything(), _everything()
    probe = rule.needs[0]
    without.facts.pop(probe, None)
    without.sources["x.log"] = LogSource("x.log", frozenset(KINDS) - {probe})
    without.missing[probe] = f"{probe} was taken away"
    assert judge.verdicts(whole, set(), [rule])[0].outcome == "clear"
    verdict = judge.verdicts(without, set(), [rule])[0]
    assert (verdict.outcome, verdict.why) == ("not checked", f"{probe} was taken away")


@pytest.mark.parametrize(
    ("probe", "rules"),
    [
        ("ports", ["LINK-STATE", "LINK-ERRORS"]),
        ("file", ["TLS-EXPIRY", "MEM-LOW", "THP-NEVER", "FD-TABLE", "NCCL-RAS-MISSING"]),
        ("space", ["DISK-FILLING"]),
        ("pci_cards", ["GPU-DRIVER", "ECC-DBE", "FABRIC", "PCIE-REPLAY"]),
        ("kernel_log", ["XID-79", "HOST-OOMKILL", "PANIC"]),
    ],
)
def test_a_dead_probe_is_never_clear(probe: str, rules: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of this machine that cannot answer leaves the rules that need it unchecked, with its reason."""
    monkeypatch.setattr(vitals, probe, lambda *_: Missing("taken away"))
    if probe == "pci_cards":
        monkeypatch.setattr(cards, "look", lambda: Missing("no library"))
    after = {v.rule: v for v in diagnose(Wish()).verdicts}
    assert {rule: after[rule].outcome for rule in rules} == dict.fromkeys(rules, "not checked")
    assert all(after[rule].why for rule in rules)


@pytest.mark.long
def test_ten_thousand_damaged_logs_never_crash(tmp_path: Path) -> None:
    """10 000 logs of some lines of the cases, cut, mixed, doubled and with foreign bytes, some packed: a report."""
    rng = random.Random(61)
    lines = [line for case in all_cases() for text in case.files.values() for line in text.splitlines()]
    path = tmp_path / "fuzzed.log"
    for _ in range(10_000):
        raw = b"\n".join(_damaged(rng, lines) for _ in range(rng.randrange(1, 9)))
        path.write_bytes(gzip.compress(raw)[: rng.randrange(20, 400)] if rng.randrange(10) == 0 else raw)
        found = diagnose(Wish(logs=(str(path),)))
        as_text(found, "info")
        as_markdown(found, "info")
        json.dumps(as_json(found, "info"))


def test_a_removed_answer_of_a_host_is_never_clear() -> None:
    """Each section of a host's answer left out, failed, or garbled in turn: what came from it is not clear."""
    whole = _outcomes(answer())
    lost: set[str] = set()
    for name in re.findall(r"^@@ (\w+) \d+$", answer(), re.MULTILINE):
        without = _outcomes(re.sub(rf"@@ {name} \d+\n(?: .*\n)*", "", answer()))
        failed = _outcomes(answer(**{name: (126, "Permission denied")}))
        garbled = _outcomes(answer(**{name: (0, "\x00\ufffd?")}))
        for told in (without, failed, garbled):
            assert {rule for rule, now in told.items() if now == "clear" and whole[rule] != "clear"} == set(), name
        gone = {rule for rule, now in without.items() if now != "clear" and whole[rule] == "clear"}
        assert {rule for rule in gone if without[rule] != "not checked"} == set(), name
        lost |= gone
    assert {
        "MEM-LOW",
        "THP-NEVER",
        "FD-TABLE",
        "LIMIT-NOFILE",
        "DISK-FILLING",
        "XID-79",
        "ECC-DBE",
        "LINK-STATE",
    } <= lost


def _outcomes(text: str) -> dict[str, str]:
    fleet = hostcheck.look(["a1"], lambda _: text)
    told = fleetlook.verdicts(Case(), fleet.cases, set(), RULES, is_local=False)
    return {verdict.rule: verdict.outcome for verdict in told}
