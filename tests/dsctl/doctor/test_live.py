"""This machine: cards through a fake driver library, small files, environment; absence is never 'clear'."""

from __future__ import annotations

from typing import Any

import pynvml as nvml
import pytest

from dsctl.base.missing import Missing
from dsctl.doctor import judge, live
from dsctl.doctor.model import Case
from dsctl.doctor.rules import catalogue
from dsctl.flows import checkup, diagnose
from dsctl.reach import cards, vitals
from tests.dsctl.doctor.fake_nvml import driver

HEALTHY: dict[str, Any] = {
    "ecc": 0, "clocks": 1, "persistence": 1, "power_limit": 700000, "power_default": 700000,
    "pcie_width": 16, "pcie_width_max": 16, "rows": (0, 0, 0, 0), "fields": {230: 0},
}  # fmt: skip
LIVE = [rule for rule in catalogue().values() if not rule.literals]


def _fired(monkeypatch: pytest.MonkeyPatch, found: list[dict[str, Any]], **driver_words: Any) -> tuple[list[str], Case]:
    bus = [f"0000:{n:02x}:00.0" for n in range(len(found))] or ["0000:01:00.0"]
    monkeypatch.setattr(vitals, "pci_cards", lambda: bus)
    case = Case()
    with driver(found, **driver_words):
        checkup.look(case)
    return [f.rule.id for f in live.findings(case, "gpu-t1") if f.rule.needs[0].startswith("gpu")], case


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, ""),
        ({"ecc": 3}, "ECC-DBE"),
        ({"rows": (0, 0, 1, 0)}, "ROW-PENDING"),
        ({"rows": (0, 0, 0, 1)}, "ROW-FAIL"),
        ({"fields": {230: 1}}, "GPU-RECOVERY"),
        ({"clocks": 0x40}, "THERM-HW"),
        ({"clocks": 0x4}, ""),
        ({"power_limit": 400000}, "PWR-CAP"),
        ({"pcie_width": 8}, "PCIE-WIDTH"),
        ({"persistence": 0}, "PERSIST-OFF"),
        ({"lost": True}, "GPU-DRIVER"),
        ({"fabric": 2}, "FABRIC"),
        ({"fabric": 3}, ""),
        ({"fabric": 2, "cluster": 0}, ""),
        ({"links": [1, 1, 0, 1]}, "NVL-DOWN"),
        ({"links": [0, 0, 0, 0]}, ""),
        ({"clocks": 0x2, "app_clock": 1200, "app_clock_default": 1980}, "CLOCK-LOCK"),
        ({"clocks": 0x2, "app_clock": 1980, "app_clock_default": 1980}, ""),
        ({"retired": 20}, "PAGES"),
        ({"retired": 3, "retired_pending": 0}, ""),
        ({"retired": 3, "retired_pending": 1}, "PAGES"),
        ({"reserved": 2 << 30}, "MEM-RESERVED"),
        ({"reserved": 600 << 20}, ""),
    ],
)
def test_card_faults(change: dict[str, Any], rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault of a card fires its rule and only that; a healthy card fires none."""
    fired, _ = _fired(monkeypatch, [HEALTHY, HEALTHY | change])
    assert fired == ([rule] if rule else [])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "mismatch"),
        (nvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (nvml.NVML_ERROR_UNKNOWN, "failed"),
    ],
)
def test_driver_faults(code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that refuses is a finding, and what it could not tell is not checked."""
    fired, case = _fired(monkeypatch, [], init=code)
    assert fired == ["GPU-DRIVER"]
    assert words in str(case.facts["gpu"])
    outcomes = {v.rule: v.outcome for v in judge.verdicts(case, set(fired), LIVE)}
    assert outcomes["ECC-DBE"] == "not checked"


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ({"corrected": 5}, {"corrected": 6}, ""),
        ({"corrected": 5}, {"corrected": 9}, "ECC-SBE-RATE"),
        ({"corrected": 900}, {"corrected": 2}, ""),
        ({"replays": 1}, {"replays": 2}, ""),
        ({"replays": 1}, {"replays": 9}, "PCIE-REPLAY"),
        ({"links": [1], "link_errors": {0: 4}}, {"links": [1], "link_errors": {0: 5}}, "NVL-ERR"),
        ({"links": [1], "link_errors": {2: 0}}, {"links": [1], "link_errors": {2: 900}}, ""),
        ({"links": [1], "link_errors": {2: 0}}, {"links": [1], "link_errors": {2: 9000}}, "NVL-ERR"),
    ],
)
def test_rates_of_two_samples(
    before: dict[str, Any], after: dict[str, Any], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters are judged by how they move in 15 s; a counter that was reset says nothing."""
    monkeypatch.setattr(vitals, "pci_cards", lambda: ["0000:01:00.0"])
    found, case = [HEALTHY | before], Case()
    with driver(found):
        checkup.look(case, 15.0, lambda _: found[0].update(after))
    assert [f.rule.id for f in live.findings(case, "gpu-t1") if f.rule.needs[0] == "two samples"] == (
        [rule] if rule else []
    )


def test_one_sample_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one look at the counters the rules about rates are not checked, and the option is named."""
    _, case = _fired(monkeypatch, [HEALTHY])
    verdicts = {v.rule: v for v in judge.verdicts(case, set(), LIVE)}
    assert {verdicts[name].outcome for name in ("ECC-SBE-RATE", "PCIE-REPLAY", "NVL-ERR")} == {"not checked"}
    assert "--sample" in verdicts["PCIE-REPLAY"].why


def test_acs_is_read_from_configuration_space() -> None:
    """Source validation of the ACS capability is found behind other capabilities; without it or switched off: no."""
    config = bytearray(4096)
    config[0x100:0x104] = (0x0001 | (1 << 16) | (0x148 << 20)).to_bytes(4, "little")
    config[0x148:0x14C] = (0x000D | (1 << 16)).to_bytes(4, "little")
    assert not vitals.acs_is_on(bytes(config))
    config[0x148 + 6] = 0x1D
    assert vitals.acs_is_on(bytes(config))
    assert not vitals.acs_is_on(bytes(256))
    config[0x148:0x14C] = (0x0001 | (0x148 << 20)).to_bytes(4, "little")  # a loop
    assert not vitals.acs_is_on(bytes(config))


def test_consumer_card_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a card does not support is not applicable, not clear."""
    fired, case = _fired(monkeypatch, [{"clocks": 1}])
    outcomes = {v.rule: v.outcome for v in judge.verdicts(case, set(fired), LIVE)}
    assert fired == []
    assert outcomes["ECC-DBE"] == outcomes["ROW-FAIL"] == "not applicable"
    assert outcomes["THERM-HW"] == "clear"


def test_no_card_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without cards: the rules about cards do not apply."""
    monkeypatch.setattr(vitals, "pci_cards", list)
    found = diagnose.diagnose(diagnose.Wish())
    outcomes = {v.rule: v for v in found.verdicts}
    assert outcomes["ECC-DBE"].outcome == "not applicable"
    assert "no NVIDIA card" in outcomes["ECC-DBE"].why


def test_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards on the bus and no nvidia-ml-py: not checked, with the way to install it."""
    monkeypatch.setattr(vitals, "pci_cards", lambda: ["0000:01:00.0"])
    monkeypatch.setattr(cards, "look", lambda: Missing("nvidia-ml-py is not installed"))
    case = Case()
    checkup.look(case)
    verdicts = {v.rule: v for v in judge.verdicts(case, set(), LIVE)}
    assert verdicts["GPU-DRIVER"].outcome == "not checked"
    assert "nvidia-ml-py" in verdicts["GPU-DRIVER"].why


FACTS: dict[str, Any] = {
    "environment": {}, "cores": 8, "limits": {"nofile": 1 << 20}, "memlock": -1,
    "disks": {"/": (100 << 30, 50 << 30, 1)}, "memory": (64 << 30, 32 << 30), "cpu": frozenset({"avx2", "avx512f"}),
    "thp": ["always [madvise] never"], "governor": ["performance"],
    "files": (100, 100000), "compiler": ("/usr/bin/cc", ""), "port": (8000, frozenset()), "shm": 16 << 30,
    "acs": [], "iommu": ["quiet intel_iommu=on iommu=pt"], "container": {"NVIDIA_VISIBLE_DEVICES": "all"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("fact", "value", "rule"),
    [
        ("shm", 64 << 20, "SHM-SMALL"),
        ("limits", {"nofile": 1024}, "LIMIT-NOFILE"),
        ("memlock", 65536, "LIMIT-MEMLOCK"),
        ("disks", {"/": (100 << 30, 1 << 30, 1)}, "DISK-FILLING"),
        ("memory", (64 << 30, 1 << 30), "MEM-LOW"),
        ("thp", ["always madvise [never]"], "THP-NEVER"),
        ("environment", {"OMP_WAIT_POLICY": "ACTIVE"}, "OMP-SPIN"),
        ("environment", {"OMP_NUM_THREADS": "64"}, "OMP-THREADS"),
        ("environment", {"NCCL_P2P_DISABLE": "1"}, "NCCL-ENV-HARMFUL"),
        ("environment", {"NCCL_BLOCKING_WAIT": "1"}, "ENV-OLD-NAMES"),
        ("environment", {"PYTORCH_ALLOC_CONF": "a", "PYTORCH_CUDA_ALLOC_CONF": "b"}, "ALLOC-CONF-TWICE"),
        ("cpu", frozenset({"avx2"}), "CPU-AVX512"),
        ("cpu", frozenset({"avx512f"}), "CPU-AVX2"),
        ("governor", ["powersave"], "CPU-GOVERNOR"),
        ("compiler", ("", "none on PATH"), "NO-COMPILER"),
        ("files", (99000, 100000), "FD-TABLE"),
        ("port", (8000, frozenset({8000})), "PORT-BUSY"),
        ("acs", ["0000:40:01.0"], "ACS"),
        ("iommu", ["quiet intel_iommu=on"], "IOMMU"),
        ("container", {"NVIDIA_VISIBLE_DEVICES": "void"}, "CT-VIS"),
        ("container", {"NVIDIA_DRIVER_CAPABILITIES": "utility"}, "CT-VIS"),
    ],
)
def test_machine_facts(fact: str, value: Any, rule: str) -> None:
    """Each bad fact fires its rule and only that; without the fact the rule is not checked."""
    case = Case(facts=dict(FACTS))
    assert live.findings(case, "gpu-t1") == []
    case.facts[fact] = value
    assert [f.rule.id for f in live.findings(case, "gpu-t1")] == [rule]
    del case.facts[fact]
    assert {v.rule: v.outcome for v in judge.verdicts(case, set(), LIVE)}[rule] == "not checked"


def test_every_live_rule_is_judged_or_never_clear() -> None:
    """A live rule has a judge, or a need that this version cannot meet."""
    unmet = {"two samples", "ras", "several hosts"}
    derived = {rule.id for rule in LIVE if all(need.endswith(" log") for need in rule.needs)}
    assert (
        sorted(r.id for r in LIVE if r.id not in live.JUDGES and r.id not in derived and not unmet & set(r.needs)) == []
    )


def test_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names that matter are looked at."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    found = vitals.environment()
    assert found["NCCL_DEBUG"] == "INFO"
    assert "HF_TOKEN" not in found
