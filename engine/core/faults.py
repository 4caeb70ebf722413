"""Test switches that make a core fail on purpose, at a step of its own; nothing of this runs in production.

`Start.faults` names them:
die_at_step n    SIGKILL to itself in step n          exit_at_step n   exit code 70 in step n
hang_at_step n   step n never ends                    stop_at_step n   SIGSTOP to itself in step n
oom_rows n       real want of memory in every step that computes n rows or more of one sequence
oom_at_step n    step n raises MemoryError, once      fail_at_step n   from step n on, batches raise
nan_at_step n    the first row of step n is NaN       slow x           every step takes x times as long
step_s x         every step takes at least x seconds  slow_load_s x    loading takes x seconds more
die_at_load 1    SIGKILL to itself while loading      hang_at_load 1   loading never ends
epochs n         all of the above only while the core's epoch is at most n
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor

from engine.layers.batch import StepBatch
from engine.running.runner import Computes
from engine.spec.errors import ConfigError

_TOO_MUCH = 1 << 60  # bytes; beyond any address space

Faults = dict[str, float]

NAMES = {
    "die_at_step", "exit_at_step", "hang_at_step", "stop_at_step", "oom_at_step", "oom_rows", "fail_at_step",
    "nan_at_step", "slow", "step_s", "slow_load_s", "die_at_load", "hang_at_load", "epochs",
}  # fmt: skip


def wanted(faults: Faults, epoch: int) -> Faults:
    """The faults this epoch is to show. Raises ConfigError on an unknown name."""
    unknown = sorted(set(faults) - NAMES)
    if unknown:
        raise ConfigError(f"unknown fault {unknown[0]!r}; known are {', '.join(sorted(NAMES))}")
    return faults if epoch <= faults.get("epochs", epoch) else {}


def while_loading(faults: Faults) -> None:
    """Show the faults of loading."""
    time.sleep(faults.get("slow_load_s", 0.0))
    if faults.get("die_at_load"):
        os.kill(os.getpid(), signal.SIGKILL)
    if faults.get("hang_at_load"):
        _hang()


def _hang() -> None:
    while True:
        time.sleep(0.05)


class FaultyModel:
    """A model whose forward counts its calls from 1 and fails as told."""

    def __init__(self, model: Computes, faults: Faults) -> None:
        self._model = model
        self._faults = faults
        self._step = 0

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        """The model's logits, later or spoilt; or no return at all."""
        self._step += 1
        began = time.monotonic()
        self._break_off(batch)
        logits = self._model.forward(batch, cache)
        if self._is_at("nan_at_step"):
            logits[:1] = float("nan")
        took = time.monotonic() - began
        time.sleep(max(took * (self._faults.get("slow", 1.0) - 1.0), self._faults.get("step_s", 0.0) - took, 0.0))
        return logits

    def _is_at(self, name: str) -> bool:
        return self._faults.get(name) == self._step

    def _break_off(self, batch: StepBatch) -> None:
        if self._is_at("die_at_step"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_at("exit_at_step"):
            os._exit(70)
        if self._is_at("stop_at_step"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._is_at("hang_at_step"):
            _hang()
        if self._is_at("oom_at_step"):
            raise MemoryError("injected: no memory for this step")
        if max((segment.length for segment in batch.segments), default=0) >= self._faults.get("oom_rows", float("inf")):
            torch.empty(_TOO_MUCH, dtype=torch.uint8)  # the allocator itself refuses
        if self._step >= self._faults.get("fail_at_step", float("inf")) and len(batch.segments) > 1:
            raise RuntimeError("injected: this step fails for more than one segment")
