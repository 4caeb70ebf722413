"""--fix and --deep: nothing changes unasked, every change can be put back, every test ends and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.errors import PreflightError
from dsctl.base.missing import Missing
from dsctl.cli.app import run
from dsctl.cli.show import Terminal
from dsctl.doctor import judge, live, remedies
from dsctl.doctor.model import Case
from dsctl.doctor.remedies import TABLE, Turn
from dsctl.doctor.rules import catalogue
from dsctl.flows import deepcheck, remedy
from dsctl.reach import http, knobs, probes, vitals

THP = "sys/kernel/mm/transparent_hugepage/enabled"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose kernel settings are files: huge pages off, everything else as it is."""
    root = tmp_path / "root"
    setting = root / THP
    setting.parent.mkdir(parents=True)
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(knobs, "ROOT", root)
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    real = vitals.file
    monkeypatch.setattr(vitals, "file", lambda path: setting.read_text() if path == f"/{THP}" else real(path))
    monkeypatch.setattr(vitals, "kernel_log", lambda *_: Missing("not here"))
    return root


ONLY = ["doctor", "--only", "THP-NEVER", "--threshold", "info"]


def test_no_terminal_and_no_yes_changes_nothing(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal --fix shows the change and its undo, ends with 8, and touches nothing."""
    assert run([*ONLY, "--fix"]) == 8
    said = capsys.readouterr().err
    assert f"/{THP}: never → madvise" in said
    assert f"undo: echo 'never' | sudo tee /{THP}" in said
    assert (machine / THP).read_text() == "always madvise [never]\n"


def test_dry_run_is_pending(machine: Path) -> None:
    """--dry-run shows the changes, ends with 3, and touches nothing."""
    assert run([*ONLY, "--fix", "--dry-run", "--yes"]) == 3
    assert (machine / THP).read_text() == "always madvise [never]\n"


def test_yes_changes_and_writes_down(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --yes the setting is written, and the journal has old value and undo from before the change."""
    assert run([*ONLY, "--fix", "--yes"]) == 0
    assert (machine / THP).read_text() == "madvise\n"
    lines = [json.loads(line) for line in (tmp_path / "home/doctor/journal.jsonl").read_text().splitlines()]
    assert [(line["state"], line["old"], line["new"]) for line in lines] == [
        ("before", "never", "madvise"),
        ("done", "never", "madvise"),
    ]
    assert lines[0]["undo"].startswith("echo 'never'")
    monkeypatch.setattr(knobs, "write", lambda *_: pytest.fail("nothing is left to do"))
    assert run([*ONLY, "--fix", "--yes"]) == 0


def test_a_value_that_moved_is_left_alone(machine: Path) -> None:
    """A setting that is no longer what was shown is not written."""
    turn = Turn("THP-NEVER", THP, "never", "madvise")
    (machine / THP).write_text("[always] madvise never\n")
    with pytest.raises(PreflightError, match="no longer never"):
        remedy.apply([turn], {"": remedy.Here()}, Terminal(agreed=True))
    assert (machine / THP).read_text() == "[always] madvise never\n"


def test_logs_of_others_repair_nothing(tmp_path: Path) -> None:
    """--fix with only logs is a usage error: they may be another machine's."""
    (tmp_path / "a.log").write_text("INFO\n")
    assert run(["doctor", "--logs", str(tmp_path / "a.log"), "--fix", "--yes"]) == 2


@pytest.mark.parametrize("name", ["etc/passwd", "proc/sys/../../etc/passwd", "sys/power/state"])
def test_other_files_are_never_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only settings below the listed places can be written."""
    monkeypatch.setattr(knobs, "ROOT", tmp_path)
    with pytest.raises(PreflightError):
        knobs.write(name, "x")
    assert list(tmp_path.rglob("*")) == []


def test_remedies_raise_and_never_lower() -> None:
    """Numbers only grow, choices only switch, and every remedy belongs to a rule of the catalogue."""
    assert set(TABLE) <= set(catalogue())
    assert remedies.at_least(100)("99") == "100"
    assert remedies.at_least(100)("100") is None
    assert remedies.at_least(100)("max") is None
    assert remedies.chosen("madvise")("always [madvise] never") is None
    assert remedies.wider_ports("32768\t60999") == "10240 65535"
    assert remedies.wider_ports("1024 65535") is None


def _deep(monkeypatch: pytest.MonkeyPatch, **found: Any) -> tuple[Case, list[str], list[tuple[str, str]]]:
    def give(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    monkeypatch.setattr(probes, "memory_copy", give(found.get("memory", 9e9)))
    monkeypatch.setattr(probes, "disk_write", give(found.get("disk", 900e6)))
    monkeypatch.setattr(probes, "kernels", give(found.get("kernels", (0, "agrees"))))
    monkeypatch.setattr(probes, "collectives", give(found.get("gloo", (0, "2 ranks agree"))))
    monkeypatch.setattr(vitals, "pci_cards", list)
    monkeypatch.setattr(deepcheck, "_front", give(found.get("front", [True, "200"])))
    case = Case()
    return case, *deepcheck.run(case, Terminal(is_quiet=True))


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        ({}, ""),
        ({"memory": 0.4e9}, "DEEP-MEMORY"),
        ({"disk": 12e6}, "DEEP-DISK"),
        ({"kernels": (1, "int8, 3 rows: 0.2 away")}, "DEEP-KERNELS"),
        ({"gloo": (1, "over Gloo: rank 1 did not get further in time after 'joined'")}, "DEEP-GLOO"),
        ({"front": [False, "503 from the front"]}, "DEEP-FRONT"),
    ],
)
def test_deep_results_are_judged(found: dict[str, Any], rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad result fires its rule and only that; what was measured is told."""
    case, told, mute = _deep(monkeypatch, **found)
    assert [f.rule.id for f in live.findings(case, "h")] == ([rule] if rule else [])
    assert (len(told), mute) == (7, [])


def test_a_deep_test_without_answer_is_not_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that could not run is named, and its rule is not checked; one that does not apply is not clear either."""
    case, _, mute = _deep(monkeypatch, kernels=Missing("did not end in 180 s"), front="nothing is deployed here")
    rules = [catalogue()["DEEP-KERNELS"], catalogue()["DEEP-FRONT"]]
    assert [v.outcome for v in judge.verdicts(case, set(), rules)] == ["not checked", "not applicable"]
    assert mute == [("compiled kernels against their references", "did not end in 180 s")]


def test_without_deep_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Active tests run only when they are asked for; their rules say so."""
    (tmp_path / "a.log").write_text("INFO\n")
    run(["doctor", "--logs", str(tmp_path / "a.log"), "--json"])
    why = {v["rule"]: v["why"] for v in json.loads(capsys.readouterr().out)["not_checked"]}
    assert {name for name in why if name.startswith("DEEP-") and "--deep" in why[name]} == {
        "DEEP-MEMORY", "DEEP-DISK", "DEEP-KERNELS", "DEEP-FRONT", "DEEP-GPU-MEMORY", "DEEP-GLOO", "DEEP-NCCL",
        "DEEP-NETWORK",
    }  # fmt: skip


def test_the_probes_really_measure(tmp_path: Path) -> None:
    """Memory and disk give a rate and leave no file; a directory that is not there is Missing."""
    assert probes.memory_copy(1 << 20, 1) > 0
    rate = probes.disk_write(tmp_path, 1 << 20)
    assert isinstance(rate, float)
    assert rate > 0
    assert list(tmp_path.iterdir()) == []
    assert isinstance(probes.disk_write(tmp_path / "none", 1 << 20), Missing)


def test_no_deployment_is_not_applicable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a deployed front there is nothing to ask, and no request is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(http, "post", lambda *_: pytest.fail("no request"))
    assert deepcheck._front() == "nothing is deployed here"
