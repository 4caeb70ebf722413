"""Servers of eight A100 or H100 through the real nvidia-ml-py: healthy ones are clear, a fault is its one finding."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dsctl.doctor import judge, live
from dsctl.doctor.model import Case, Finding
from dsctl.doctor.rules import catalogue
from dsctl.flows import checkup
from dsctl.reach import vitals
from tests.dsctl.doctor.fake_nvml import driver

GIB = 1 << 30
COMMON: dict[str, Any] = {
    "ecc": 0, "corrected": 0, "clocks": 0x1, "persistence": 1, "pcie_width": 16, "pcie_width_max": 16,
    "rows": (0, 0, 0, 0),
    "fields": {230: 0}, "pstate": 0, "temperature": 41, "slowdown_at": 90, "app_clock": 1980, "app_clock_default": 1980,
    "replays": 0, "retired": 0, "retired_pending": 0, "reserved": 600 << 20, "free": 70 * GIB, "utilisation": 0,
    "processes": [(os.getpid(), 60 * GIB)],
}  # fmt: skip
A100 = COMMON | {
    "name": "NVIDIA A100-SXM4-80GB", "power_limit": 400000, "power_default": 400000, "pcie_gen": 4, "pcie_gen_max": 4,
    "links": [1] * 12, "fabric": 3,
}  # fmt: skip
H100 = COMMON | {
    "name": "NVIDIA H100 80GB HBM3", "power_limit": 700000, "power_default": 700000, "pcie_gen": 5, "pcie_gen_max": 5,
    "links": [1] * 18, "fabric": 3,
}  # fmt: skip
FAULTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ecc": 3}, "ECC-DBE"), ({"rows": (0, 0, 1, 0)}, "ROW-PENDING"), ({"rows": (0, 0, 0, 1)}, "ROW-FAIL"),
    ({"fields": {230: 1}}, "GPU-RECOVERY"), ({"clocks": 0x8}, "THERM-HW"), ({"clocks": 0x40}, "THERM-HW"),
    ({"clocks": 0x80}, "THERM-HW"), ({"temperature": 86}, "THERM-SW"), ({"power_limit": 250000}, "PWR-CAP"),
    ({"pcie_width": 8}, "PCIE-WIDTH"), ({"pcie_gen": 1}, "PCIE-GEN"), ({"persistence": 0}, "PERSIST-OFF"),
    ({"lost": True}, "GPU-DRIVER"), ({"fabric": 2}, "FABRIC"), ({"links": [1] * 11 + [0]}, "NVL-DOWN"),
    ({"clocks": 0x2, "app_clock": 1200}, "CLOCK-LOCK"), ({"retired": 20}, "PAGES"), ({"retired_pending": 1}, "PAGES"),
    ({"reserved": 2 * GIB}, "MEM-RESERVED"), ({"processes": [(4_000_001, 30 * GIB)]}, "MEM-ZOMBIE"),
)  # fmt: skip
NEAR: tuple[dict[str, Any], ...] = (
    {"clocks": 0x4}, {"pcie_gen": 1, "pstate": 8}, {"temperature": 84}, {"processes": [(4_000_001, 200 << 20)]},
    {"retired": 7}, {"rows": (3, 1, 0, 0)}, {"free": 0, "utilisation": 100}, {"corrected": 10_000_000, "replays": 9},
)  # fmt: skip
GPU_RULES = [rule for rule in catalogue().values() if rule.needs[0].startswith("gpu")]


def _server(cards: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, **driver_words: Any) -> Case:
    monkeypatch.setattr(vitals, "pci_cards", lambda: [f"0000:{n:02x}:00.0" for n in range(len(cards))])
    monkeypatch.setattr(checkup, "_is_container", lambda: False)
    case = Case()
    with driver(cards, **driver_words):
        checkup.look(case)
    return case


def _about_cards(case: Case) -> list[Finding]:
    return [found for found in live.findings(case, "gpu-t1") if found.rule in GPU_RULES]


@pytest.mark.parametrize("model", [A100, H100], ids=["A100", "H100"])
def test_a_healthy_server_is_clear(model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight healthy cards: no finding, and every rule about cards is clear, none unchecked."""
    case = _server([model] * 8, monkeypatch)
    assert _about_cards(case) == []
    assert {v.rule: v.outcome for v in judge.verdicts(case, set(), GPU_RULES) if v.outcome != "clear"} == {}


@pytest.mark.parametrize("model", [A100, H100], ids=["A100", "H100"])
@pytest.mark.parametrize(("change", "rule"), FAULTS)
def test_each_fault_of_one_card(
    model: dict[str, Any], change: dict[str, Any], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the sixth card is the one finding, and it is about the sixth card."""
    case = _server([*[model] * 5, model | change, *[model] * 2], monkeypatch)
    found = _about_cards(case)
    assert [f.rule.id for f in found] == [rule]
    assert rule == "GPU-DRIVER" or found[0].gpu == "5"


@pytest.mark.parametrize("change", NEAR)
def test_what_is_normal_is_no_finding(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The power cap under load, a slow link while idle, old corrected errors, a full and busy card: silence."""
    assert _about_cards(_server([H100, H100 | change], monkeypatch)) == []


# The function of the driver's library → the facts that come from it.
GETTERS = {
    "nvmlDeviceGetFieldValues": "gpu.recovery", "nvmlDeviceGetTotalEccErrors": "gpu.ecc",
    "nvmlDeviceGetRemappedRows": "gpu.rows_pending", "nvmlDeviceGetTemperature": "gpu.temperature",
    "nvmlDeviceGetEnforcedPowerLimit": "gpu.power_limit", "nvmlDeviceGetPersistenceMode": "gpu.persistence",
    "nvmlDeviceGetCurrPcieLinkWidth": "gpu.pcie_width", "nvmlDeviceGetCurrPcieLinkGeneration": "gpu.pcie_gen",
    "nvmlDeviceGetComputeRunningProcesses": "gpu.processes", "nvmlDeviceGetGpuFabricInfoV": "gpu.fabric",
    "nvmlDeviceGetNvLinkState": "gpu.nvlinks", "nvmlDeviceGetApplicationsClock": "gpu.app_clock",
    "nvmlDeviceGetRetiredPages": "gpu.retired", "nvmlDeviceGetMemoryInfo": "gpu.reserved",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GETTERS))
def test_a_failing_getter_is_never_clear(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that fails leaves its rules not checked, with words; one that an old driver lacks, not clear."""
    rules = [rule for rule in GPU_RULES if rule.needs[0] == GETTERS[name]]
    assert rules
    failed = judge.verdicts(_server([H100] * 2, monkeypatch, failing=(name,)), set(), rules)
    assert {v.outcome for v in failed} == {"not checked"}
    assert all(v.why for v in failed)
    absent = judge.verdicts(_server([H100] * 2, monkeypatch, missing=(name,)), set(), rules)
    assert "clear" not in {v.outcome for v in absent}


def test_failing_clocks_are_never_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks' reasons have two names; without either the rule is not checked, with the old name alone it is."""
    both = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    (verdict,) = judge.verdicts(_server([H100], monkeypatch, failing=both), set(), [catalogue()["THERM-HW"]])
    assert verdict.outcome == "not checked"


def test_one_silent_card_of_eight_is_not_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that seven cards give and one does not give is no clean bill for the eighth."""
    silent = {key: value for key, value in H100.items() if key != "ecc"}
    case = _server([*[H100] * 7, silent], monkeypatch)
    (verdict,) = judge.verdicts(case, set(), [catalogue()["ECC-DBE"]])
    assert verdict.outcome != "clear"
