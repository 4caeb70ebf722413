"""The instruction sets the kernels are written for, and which of them this machine can run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from engine.spec.errors import ConfigError

ENVIRONMENT = "DSCTL_KERNEL_ISA"  # forces one of the names below


@dataclass(frozen=True, slots=True)
class Isa:
    """One build of the kernels: what the compiler is told and what the processor must have."""

    name: str
    options: tuple[str, ...]
    features: frozenset[str]  # as /proc/cpuinfo spells them


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
_AVX2_OPTIONS = ("-mavx2", "-mfma", "-mf16c")
_AVX512_OPTIONS = (*_AVX2_OPTIONS, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")

ISAS = (  # best first
    Isa("avx512", _AVX512_OPTIONS, _AVX512),
    Isa("avx2", _AVX2_OPTIONS, _AVX2),
    Isa("portable", (), frozenset()),
)


def features() -> frozenset[str]:
    """What processor and operating system offer; empty where it cannot be read (then only portable code runs)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    # of all cores: a process may move to any of them
    return (
        frozenset.intersection(*(frozenset(line.partition(":")[2].split()) for line in lines)) if lines else frozenset()
    )


def usable(wanted: str | None = None) -> list[Isa]:
    """Builds to try, best first; one alone when `wanted` or the environment names it.

    Raises ConfigError when the name is unknown or the processor lacks it.
    """
    wanted = wanted or os.environ.get(ENVIRONMENT) or None
    have = features()
    able = [isa for isa in ISAS if isa.features <= have]
    if wanted is None:
        return able
    named = [isa for isa in able if isa.name == wanted]
    if not named:
        names = ", ".join(isa.name for isa in able)
        raise ConfigError(f"kernel instruction set {wanted!r} does not exist or cannot run here; choose one of {names}")
    return named
