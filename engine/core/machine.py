"""What this machine lets the process use: cores by affinity and quota, memory by what is free and its group's limit."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(group: Path = _CGROUP) -> int:
    """Cores this process may keep busy: its affinity, or less when the control group's quota is less; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(group)
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def _quota(group: Path) -> float | None:
    """Cores of quota of this process's control group, versions 2 and 1; None without one."""
    words = _read(group / "cpu.max").split()
    if len(words) != 2:
        words = [_read(group / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        limit, period = float(words[0]), float(words[1])
    except ValueError:  # "max", or no such file
        return None
    return limit / period if limit > 0 and period > 0 else None


def free_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = _CGROUP) -> int:
    """Bytes that can be taken without swapping: what the machine has available, within the group's limit."""
    lines = dict(line.split(":", 1) for line in _read(meminfo).splitlines() if ":" in line)
    machine = int(lines.get("MemAvailable", "0 kB").split()[0]) << 10
    limits = [(group / "memory.max", group / "memory.current"),
              (group / "memory/memory.limit_in_bytes", group / "memory/memory.usage_in_bytes")]  # fmt: skip
    for limit, used in limits:
        text = _read(limit)
        if text.isdigit():
            return min(machine, max(0, int(text) - int(_read(used) or 0) + _reclaimable(limit.parent)))
    return machine


def _reclaimable(group: Path) -> int:
    """Bytes of files the kernel would drop from the group's memory for us."""
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def resident_bytes() -> int:
    """Memory this process occupies now; 0 where that cannot be told."""
    pages = _read(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
