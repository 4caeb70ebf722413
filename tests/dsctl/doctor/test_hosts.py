"""Hosts over SSH: the script runs, its answer is read whole or called cut, and every finding has its host."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.cards import Cards
from dsctl.base.errors import DsctlError
from dsctl.cli.app import run
from dsctl.doctor import live
from dsctl.doctor.model import Case
from dsctl.doctor.rules import catalogue
from dsctl.facts import survey
from dsctl.flows import diagnose, fleetlook, hostcheck
from dsctl.flows.diagnose import Wish
from dsctl.reach import vitals
from tests.dsctl.doctor.fake_nvml import driver
from tests.dsctl.reach.ssh import server

GPU = """<gpu id="00000000:{bus}:00.0"><product_name>NVIDIA H100 80GB HBM3</product_name><persistence_mode>{persistence}</persistence_mode>
<pci><pci_gpu_link_info><pcie_gen><max_link_gen>5</max_link_gen><current_link_gen>5</current_link_gen></pcie_gen>
<link_widths><max_link_width>16x</max_link_width><current_link_width>{width}x</current_link_width></link_widths></pci_gpu_link_info></pci>
<clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
<clocks_event_reason_hw_thermal_slowdown>{thermal}</clocks_event_reason_hw_thermal_slowdown></clocks_event_reasons>
<ecc_errors><volatile><dram_uncorrectable>{ecc}</dram_uncorrectable><sram_uncorrectable_parity>0</sram_uncorrectable_parity></volatile></ecc_errors>
<remapped_rows><remapped_row_pending>{pending}</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows>
<performance_state>P0</performance_state><temperature><gpu_temp>40 C</gpu_temp><gpu_temp_slow_threshold>N/A</gpu_temp_slow_threshold></temperature>
<gpu_power_readings><current_power_limit>{power} W</current_power_limit><default_power_limit>700.00 W</default_power_limit></gpu_power_readings>
<fabric><state>{fabric}</state></fabric></gpu>"""  # noqa: E501
FINE = {
    "bus": "1B",
    "persistence": "Enabled",
    "width": "16",
    "thermal": "Not Active",
    "ecc": "0",
    "pending": "No",
    "power": "700.00",
    "fabric": "Completed",
}


NOW = "this moment"


def xml(*cards: dict[str, str]) -> str:
    body = "".join(GPU.format(**FINE | {"bus": f"{27 + n:02X}"} | card) for n, card in enumerate(cards))
    return (
        f'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi.dtd">\n<nvidia_smi_log>{body}</nvidia_smi_log>'
    )


def answer(**changed: tuple[int, str]) -> str:
    """A host's answer: healthy, with two cards, where nothing else is said."""
    told: dict[str, tuple[int, str]] = {
        "time": (0, NOW), "kernel": (0, "6.8.0-90-generic"), "cores": (0, "96"), "governor": (0, "performance"),
        "memory": (0, "MemTotal: 1000000 kB\nMemAvailable: 900000 kB"), "flags": (0, "flags : avx2 avx512f"),
        "thp": (0, "always [madvise] never"), "files": (0, "1000 0 9000000"), "nofile": (0, "1048576"),
        "memlock": (0, "unlimited"), "infiniband": (0, ""), "compiler": (0, "/usr/bin/cc"), "cmdline": (0, "quiet"),
        "shm": (0, "Filesystem\ntmpfs 33554432 0 33554432 0% /dev/shm"),
        "disks": (0, "/dev/sda1 100000000 1000 90000000 1% /"), "bus": (0, "0000:1b:00.0\n0000:1c:00.0"),
        "links": (0, "infiniband|mlx5_0/1|4: ACTIVE|400 Gb/sec (4X NDR)||\nethernet|eth0|up|25000|full|"),
        "tcp": (1, "  sl  local_address rem_address st\n 0: 00000000:0016 00000000:0000 0A 0"),
        "driver": (0, "570.124.06"), "docker": (0, "28.3.1"), "cards": (0, xml({}, {})),
        "log": (0, "[    1.000000] Linux version 6.8.0"), "end": (0, ""),
    }  # fmt: skip
    return "".join(
        f"@@ {name} {code}\n" + "".join(f" {line}\n" for line in text.splitlines())
        for name, (code, text) in (told | changed).items()
    )


def diagnosed(answers: dict[str, str | DsctlError], monkeypatch: pytest.MonkeyPatch) -> Any:
    def ask(name: str) -> str:
        said = answers[name]
        if isinstance(said, DsctlError):
            raise said
        return said.replace(NOW, f"{time.time():.3f}")

    monkeypatch.setattr(fleetlook, "look", lambda *_: hostcheck.look(list(answers), ask))
    return diagnose.diagnose(Wish(hosts="all"))


def _fired(found: Any) -> set[tuple[str, str]]:
    return {(f.rule.id, f.host) for f in found.findings}


def test_healthy_hosts_have_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal, healthy hosts: nothing fires, what was looked at is clear, and nothing is said about this machine."""
    found = diagnosed({"a1": answer(), "a2": answer()}, monkeypatch)
    assert found.findings == []
    outcomes = {v.rule: v.outcome for v in found.verdicts}
    assert {outcomes[r] for r in ("ECC-DBE", "XID-79", "MEM-LOW", "CLUSTER-DRIFT", "CLOCK-OFFSET", "FABRIC")} == {
        "clear"
    }
    assert outcomes["NCCL-RAS-MISSING"] == "not checked"


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"cards": (0, xml({"ecc": "4"}, {}))}, "ECC-DBE"),
        ({"cards": (0, xml({"pending": "Yes"}, {}))}, "ROW-PENDING"),
        ({"cards": (0, xml({"thermal": "Active"}, {}))}, "THERM-HW"),
        ({"cards": (0, xml({"power": "400.00"}, {}))}, "PWR-CAP"),
        ({"cards": (0, xml({"width": "8"}, {}))}, "PCIE-WIDTH"),
        ({"cards": (0, xml({"fabric": "In Progress"}, {}))}, "FABRIC"),
        ({"cards": (0, xml({}))}, "GPU-COUNT"),
        ({"cards": (18, "Failed to initialize NVML: Driver/library version mismatch")}, "GPU-DRIVER"),
        ({"cards": (124, "")}, "GPU-DRIVER"),
        ({"shm": (0, "Filesystem\ntmpfs 65536 0 65536 0% /dev/shm")}, "SHM-SMALL"),
        ({"memlock": (0, "64")}, "LIMIT-MEMLOCK"),
        ({"nofile": (0, "1024")}, "LIMIT-NOFILE"),
        ({"disks": (0, "/dev/sda1 100000000 99500000 500000 99% /")}, "DISK-FILLING"),
        ({"log": (0, "[ 9.1] NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus.")}, "XID-79"),
        ({"driver": (0, "550.90.07")}, "CLUSTER-DRIFT"),
        ({"links": (0, "infiniband|mlx5_0/1|1: DOWN|10 Gb/sec (4X SDR)||")}, "LINK-DIFFERS"),
        ({"links": (0, "infiniband|mlx5_0/1|2: INIT|400 Gb/sec (4X NDR)||")}, "LINK-STATE"),
        ({"time": (0, f"{time.time() - 3600:.3f}")}, "CLOCK-OFFSET"),
    ],
)
def test_each_fault_has_its_host(
    changed: dict[str, tuple[int, str]], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of one host of three is the one finding, under that host's name."""
    found = diagnosed({"a1": answer(), "a2": answer(**changed), "a3": answer()}, monkeypatch)
    assert {fired for fired, _ in _fired(found)} == {rule}
    said = "\n".join(f"{f.host} {f.cause} {f.fix}" for f in found.findings)
    assert "a2" in said


def test_a_silent_host_is_not_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be asked is named with the reason, and does not hide what the others say."""
    lost = DsctlError("a2: no route to host", why="timed out")
    found = diagnosed({"a1": answer(nofile=(0, "1024")), "a2": lost}, monkeypatch)
    assert ("LIMIT-NOFILE", "a1") in _fired(found)
    assert found.unanswered == [("host a2", "a2: no route to host: timed out")]


def test_one_host_without_its_kernel_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one host does not show its kernel's log, the rules about it are not checked, and the host is named."""
    found = diagnosed({"a1": answer(), "a2": answer(log=(1, "dmesg: Operation not permitted"))}, monkeypatch)
    verdicts = {v.rule: v for v in found.verdicts}
    assert verdicts["XID-79"].outcome == "not checked"
    assert verdicts["XID-79"].why.startswith("a2: ")
    assert verdicts["ECC-DBE"].outcome == "clear"


def test_hosts_without_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """No card on the bus of any host: not applicable, no fault."""
    found = diagnosed({"c1": answer(bus=(0, ""), cards=(127, ""))}, monkeypatch)
    assert found.findings == []
    assert {v.outcome for v in found.verdicts if v.rule in ("ECC-DBE", "SHM-SMALL", "GPU-DRIVER")} == {"not applicable"}


def test_an_answer_that_was_cut_is_not_clear() -> None:
    """Wherever the connection breaks, what did not arrive whole is missing, and reading never fails."""
    whole = answer()
    rng = random.Random(5)
    for cut in sorted({0, len(whole) - 9, *(rng.randrange(len(whole)) for _ in range(200))}):
        found = survey.read(whole[:cut])
        assert "survey" in found.missing
        last = whole[:cut].rfind("\n@@ ")
        if "@@ cards" not in whole[: max(0, last)]:
            assert not isinstance(found.facts.get("gpu"), Cards) or found.facts["gpu"].problem


def test_damaged_answers_never_crash() -> None:
    """Foreign bytes anywhere in an answer, the XML included: always a survey."""
    rng = random.Random(6)
    for _ in range(300):
        raw = bytearray(answer().encode())
        for _ in range(5):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        survey.read(raw.decode("utf-8", "replace"))


def test_the_script_runs_here() -> None:
    """Any POSIX shell runs the script to its end; memory, disks, limits and time are told."""
    done = subprocess.run(
        ["sh", "-s", "--", *survey.command(60.0)],
        input=survey.SCRIPT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = survey.read(done.stdout)
    assert "survey" not in found.missing
    assert {"memory", "disks", "limits", "cores", "files"} <= set(found.facts)
    assert found.time is not None
    assert found.versions["kernel"]


@pytest.mark.parametrize(
    ("over_nvml", "over_xml"),
    [
        ({}, {}),
        ({"ecc": 3}, {"ecc": "3"}),
        ({"rows": (0, 0, 1, 0)}, {"pending": "Yes"}),
        ({"clocks": 0x40}, {"thermal": "Active"}),
        ({"power_limit": 400000}, {"power": "400.00"}),
        ({"pcie_width": 8}, {"width": "8"}),
        ({"persistence": 0}, {"persistence": "Disabled"}),
        ({"fabric": 2}, {"fabric": "In Progress"}),
    ],
)
def test_xml_and_library_agree(
    over_nvml: dict[str, Any], over_xml: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same card gives the same findings through the driver's library and through nvidia-smi's XML."""
    from dsctl.flows import checkup

    fine = {
        "ecc": 0, "clocks": 1, "persistence": 1, "power_limit": 700000, "power_default": 700000, "pcie_width": 16,
        "pcie_width_max": 16, "rows": (0, 0, 0, 0), "fabric": 3,
    }  # fmt: skip
    monkeypatch.setattr(vitals, "pci_cards", lambda: ["0000:1b:00.0"])
    here = Case()
    with driver([fine | over_nvml]):
        checkup.look(here)
    there = hostcheck.look(["a1"], lambda _: answer(cards=(0, xml(over_xml)), bus=(0, "0000:1b:00.0"))).cases["a1"]
    told = [{f.rule.id for f in live.findings(c, "a1") if f.rule.needs[0].startswith("gpu")} for c in (here, there)]
    assert told[0] == told[1]
    assert bool(told[0]) == bool(over_nvml)


def test_several_hosts_alone_are_compared() -> None:
    """One host has nobody to differ from: the rules about several hosts are not checked."""
    fleet = hostcheck.look(["a1"], lambda _: answer())
    assert hostcheck.together(fleet) == {}
    assert {catalogue()[name].needs[0] for name in ("CLUSTER-DRIFT", "CLOCK-OFFSET")} == {
        "several hosts",
        "clocks of hosts",
    }


def test_over_a_real_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`dsctl doctor --hosts G` through a real sshd: one host tells, one where nobody is is unanswered."""
    if server.program() is None or shutil.which("ssh") is None:
        pytest.skip("openssh is not installed")
    (tmp_path / "sshd").mkdir()
    running = server.start(tmp_path / "sshd")
    try:
        entry = {"address": "127.0.0.1", "user": running.user, "identity": str(running.key)}
        hosts = {"near-1": entry | {"port": running.port}, "gone-1": entry | {"port": 1}}
        (tmp_path / "hosts.yaml").write_text(json.dumps({"all": {"hosts": _ansible(hosts)}}))
        (tmp_path / "known_hosts").write_text(running.known_hosts.read_text())
        (tmp_path / "dsctl.yaml").write_text("project: doctor-test\n")
        monkeypatch.chdir(tmp_path)
        code = run(["doctor", "--hosts", "all", "--json"])
    finally:
        running.stop()
    said = json.loads(capsys.readouterr().out)
    assert code in (1, 4)
    assert "host near-1" in said["looked_at"]
    assert [probe["probe"] for probe in said["unanswered"]] == ["host gone-1"]
    assert "MEM-LOW" not in {v["rule"] for v in said["not_checked"]}


def _ansible(hosts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {
        "address": "ansible_host",
        "port": "ansible_port",
        "user": "ansible_user",
        "identity": "ansible_ssh_private_key_file",
    }
    return {name: {names[key]: value for key, value in entry.items()} for name, entry in hosts.items()}
