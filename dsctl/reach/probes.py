"""The door to active measurements of this machine: memory, disk, cards, collectives, kernels; each has a deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
    return _engine("the kernels' check", ["engine.quant.selftest"], deadline_s)


def collectives(ranks: int, cards: Sequence[int] = (), deadline_s: float = 60.0) -> tuple[int, str] | Missing:
    """(exit code, words) of the engine's preflight: over Gloo between processes, or over NCCL between `cards`."""
    device = "cuda" if cards else "cpu"
    told = ["engine.parallel.preflight", "--ranks", str(ranks), "--device", device, "--deadline", f"{deadline_s:g}"]
    return _engine("the test of collectives", told, deadline_s + 30, cards)


def card_copies(cards: Sequence[int], deadline_s: float = 60.0) -> list[float] | str | Missing:
    """Bytes a second that each of these cards reads and writes while it copies; a sentence where torch sees none."""
    answer = _engine("the test of card memory", ["engine.kernels.bandwidth"], deadline_s, cards)
    if isinstance(answer, Missing):
        return answer
    code, words = answer
    if code == 3:
        return words
    try:
        rates = [float(rate) for rate in json.loads(words)["rates"]]
    except (ValueError, KeyError, TypeError):
        return Missing(f"the test of card memory ended with code {code}: {words[-300:]}")
    return rates if len(rates) == len(cards) else Missing(f"torch sees {len(rates)} of the {len(cards)} cards")


def _engine(
    what: str, module: Sequence[str], deadline_s: float, cards: Sequence[int] = ()
) -> tuple[int, str] | Missing:
    """A program of the engine, run to its end on these cards only; Missing where it cannot start or does not end."""
    environ = dict(os.environ)
    if cards:  # numbered as the driver's library numbers them
        environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))}
    command = [sys.executable, "-m", *module]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, timeout=deadline_s, env=environ)
    except subprocess.TimeoutExpired:
        return Missing(f"{what} did not end in {deadline_s:.0f} s")
    except OSError as problem:
        return Missing(f"{what} could not start: {problem}")
    words = ended.stdout.decode("utf-8", "replace").strip()
    last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
    if ended.returncode == 1 and not words:
        return Missing(f"the engine is not installed here or does not start: {last[0]}")
    return ended.returncode, words or last[0]
