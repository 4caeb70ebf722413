"""Measures what this machine gives right now: bytes read per second, int8 and bfloat16 products per second."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from benchmarks.engine_peers.processes import CORES, output
from benchmarks.engine_peers.results import Probe

SOURCE = Path(__file__).with_name("probe.c")
NEEDED = ("avx512_vnni", "avx512_bf16")
MEMORY_MIB = 1024  # more than the model's weights and any cache


def build(folder: Path) -> Path:
    """The compiled probe, built when its source is newer."""
    program = folder / "probe"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O3", "-march=native", "-pthread", str(SOURCE), "-o", str(program)], check=True)
    return program


def measure(program: Path, threads: int = CORES, memory_mib: int = MEMORY_MIB) -> Probe:
    """One probe, about a second."""
    return parse(output([str(program), str(threads), str(memory_mib)]))


def parse(text: str) -> Probe:
    """The probe's lines, each a name and a number per second."""
    values = dict(line.split() for line in text.splitlines())
    return Probe(**{name: float(values[name]) for name in ("read", "int8", "bf16")})


def cpu_flags() -> set[str]:
    """What /proc/cpuinfo says the processor can."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def machine() -> dict[str, str]:
    """What a reader needs to judge figures: processor, cores, features, caches, memory, kernel."""
    lines: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        lines[name.strip()] = value.strip()
    flags = cpu_flags()
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpu": f"{lines.get('model name', platform.machine())}, model {lines.get('cpu family')}/{lines.get('model')}",
        "cores": str(CORES),
        "features": " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "amx")))),
        "l3": cache.read_text().strip() if cache.exists() else "unknown",
        "memory": f"{int(memory.split()[1]) / 2**20:.1f} GiB",
        "kernel": platform.release(),
    }


def missing_features() -> list[str]:
    """Features without which the figures say little about this kind of machine."""
    return [feature for feature in NEEDED if feature not in cpu_flags()]


def load_average() -> float:
    """Runnable tasks over the last minute; above one half something else is running."""
    return os.getloadavg()[0]
