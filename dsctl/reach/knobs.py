"""The door to the kernel's settings under /proc/sys and /sys: read one, set one."""

from __future__ import annotations

from pathlib import Path

from dsctl.base.errors import PreflightError
from dsctl.base.missing import Missing

ROOT = Path("/")
ALLOWED = ("proc/sys/", "sys/kernel/mm/", "sys/devices/system/cpu/")


def matching(pattern: str) -> list[str]:
    """The settings that a pattern names, in order: `proc/sys/fs/file-max`, `sys/…/cpu*/cpufreq/scaling_governor`."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file())


def read(name: str) -> str | Missing:
    """The value as the kernel writes it."""
    try:
        return (ROOT / name).read_text(encoding="utf-8").strip()
    except OSError as problem:
        return Missing(f"/{name}: {problem.strerror}")


def is_allowed(name: str) -> bool:
    """True for the settings that may be changed at all."""
    return name.startswith(ALLOWED) and ".." not in name


def write(name: str, value: str) -> None:
    """Sets it. PreflightError where that is not allowed or the kernel refuses."""
    if not is_allowed(name):
        raise PreflightError(f"/{name} is not among the settings that may be changed")
    try:
        (ROOT / name).write_text(f"{value}\n", encoding="utf-8")
    except PermissionError as problem:
        raise PreflightError(f"/{name} may only be set by root", hint="run the same command with sudo") from problem
    except OSError as problem:
        raise PreflightError(f"/{name} cannot be set to {value}: {problem.strerror}") from problem
