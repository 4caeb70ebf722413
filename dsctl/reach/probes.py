"""The door to active measurements of this machine: memory, disk, kernels; each ends by its deadline."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dsctl.base.missing import Missing

MIB = 1 << 20


def memory_copy(size: int = 128 * MIB, rounds: int = 4) -> float:
    """Bytes a second that one core reads and writes together, the best of some copies."""
    source, target = memoryview(bytearray(size)), memoryview(bytearray(size))
    best = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        target[:] = source
        best = max(best, 2 * size / max(1e-9, time.perf_counter() - began))
    return best


def disk_write(directory: Path, size: int = 64 * MIB, deadline_s: float = 20.0) -> float | Missing:
    """Bytes a second that reach the disk of `directory` (fsync included). The file is removed."""
    block = os.urandom(4 * MIB)
    began = time.perf_counter()
    written = 0
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix="dsctl-probe-") as file:
            while written < size and time.perf_counter() - began < deadline_s:
                written += file.write(block[: size - written])
                file.flush()
                os.fsync(file.fileno())
    except OSError as problem:
        return Missing(f"{directory}: {problem.strerror or problem}")
    return written / max(1e-9, time.perf_counter() - began)


def kernels(deadline_s: float = 180.0) -> tuple[int, str] | Missing:
    """(exit code, words) of the engine's comparison of compiled kernels with their references."""
    command = [sys.executable, "-m", "engine.quant.selftest"]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        return Missing(f"the kernels' check did not end in {deadline_s:.0f} s")
    except OSError as problem:
        return Missing(f"the kernels' check could not start: {problem}")
    words = ended.stdout.decode("utf-8", "replace").strip()
    last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
    if ended.returncode == 1 and not words:
        return Missing(f"the engine is not installed here or does not start: {last[0]}")
    return ended.returncode, words or last[0]
