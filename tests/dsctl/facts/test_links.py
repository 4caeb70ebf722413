"""Network ports: what the shell reads from a tree like /sys is what the machine has, and damage is never a port."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from dsctl.base.missing import Missing
from dsctl.base.ports import Port
from dsctl.facts import links


def _put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def _tree(root: Path) -> None:
    for name, state, rate in (
        ("mlx5_0/ports/1", "4: ACTIVE", "400 Gb/sec (4X NDR)"), ("mlx5_1/ports/1", "1: DOWN", "10 Gb/sec (4X SDR)"),
    ):  # fmt: skip
        at = f"class/infiniband/{name}"
        _put(root, f"{at}/state", state)
        _put(root, f"{at}/rate", rate)
        _put(root, f"{at}/counters/symbol_error", "17")
    for name, state, speed, duplex in (("eth0", "up", "25000", "full"), ("eth1", "down", "-1", "unknown")):
        at = f"class/net/{name}"
        (root / at / "device").mkdir(parents=True)
        for key, text in (("type", "1"), ("operstate", state), ("speed", speed), ("duplex", duplex)):
            _put(root, f"{at}/{key}", text)
        _put(root, f"{at}/statistics/rx_crc_errors", "2")
    _put(root, "class/net/docker0/operstate", "up")  # no device: a bridge


def _read(root: Path) -> list[Port] | str | Missing:
    script = links.SCRIPT.replace("/sys/", f"{root}/") + "\nlinks"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return Missing("") if done.returncode else links.read(done.stdout)


def test_ports_of_a_machine(tmp_path: Path) -> None:
    """InfiniBand and Ethernet ports with state, rate, lanes, duplex and counters; bridges are left out."""
    _tree(tmp_path)
    assert _read(tmp_path) == [
        Port("infiniband", "mlx5_0/1", "ACTIVE", 400.0, 4, "", (("symbol_error", 17),)),
        Port("infiniband", "mlx5_1/1", "DOWN", 10.0, 4, "", (("symbol_error", 17),)),
        Port("ethernet", "eth0", "up", 25.0, 0, "full", (("rx_crc_errors", 2),)),
        Port("ethernet", "eth1", "down", 0.0, 0, "", (("rx_crc_errors", 2),)),
    ]


def test_no_port_and_no_sys(tmp_path: Path) -> None:
    """Only virtual interfaces: not applicable. No /sys: missing."""
    assert isinstance(_read(tmp_path), Missing)
    (tmp_path / "class/net/lo").mkdir(parents=True)
    assert _read(tmp_path) == links.NONE


def test_damaged_lines_are_no_ports(tmp_path: Path) -> None:
    """Whatever arrives, reading ends with ports, a sentence, or Missing."""
    _tree(tmp_path)
    rng = random.Random(3)
    text = "infiniband|mlx5_0/1|4: ACTIVE|400 Gb/sec (4X NDR)||symbol_error=17 \nethernet|eth0|up|25000|full|x=2\n"
    for _ in range(500):
        raw = bytearray(text.encode())
        for _ in range(4):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        found = links.read(raw.decode("utf-8", "replace"))
        assert isinstance(found, list | str | Missing)
