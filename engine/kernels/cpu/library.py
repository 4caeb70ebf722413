"""The compiled kernels as Python functions over torch tensors; the interpreter lock is free while they run."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels.cpu import structs
from engine.kernels.cpu.build import BuildError, build
from engine.kernels.cpu.isa import usable
from engine.kernels.cpu.matrix import Matrix, Mlps

OPERATIONS: Final = (  # csrc/profile.h
    *("embed", "norm", "project", "latent_rows", "query_up", "rotate", "absorb_k", "attend", "absorb_v"),
    *("prompt", "out", "router", "route", "experts", "dense", "add", "head"),
)
VERSION: Final = 2  # part of the numerics id: raised when a kernel's bits change

CONTENDERS: Final = 64  # ids told of a draw
Ids = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spent:
    """What one kind of work took since the profile was switched on."""

    name: str
    ns: int
    bytes: int  # of weights
    calls: int


@dataclass(frozen=True, slots=True)
class Draw:
    """A token to be drawn by argmax(logits / temperature + noise)."""

    logits: NDArray[np.float32]  # [vocab], finite
    temperature: float
    address: tuple[int, int, int]  # of the noise: seed, choice, position


class Library:
    """One loaded build. Calls take the number of threads they may use; results never depend on it."""

    def __init__(self, path: Path, isa: str) -> None:
        self.isa = isa
        self._c = ctypes.CDLL(str(path))

    @property
    def name(self) -> str:
        """Part of the numerics id: equal names mean equal bits."""
        return f"cpu-{self.isa}-{VERSION}"

    def linear(self, w: Matrix, x: Tensor, threads: int) -> Tensor:
        """x float32 [M, inputs], or [M, experts, inputs] for a stack → the same with `outputs` at the end."""
        stack = x.dim() == 3
        _check_rows(x, w.inputs)
        out = x.new_empty(*x.shape[:-1], w.outputs)
        rows = structs.Operand(x.data_ptr(), x.stride(0), x.stride(1) if stack else 0)
        to = structs.Operand(out.data_ptr(), out.stride(0), w.outputs if stack else 0)
        count = ctypes.c_int64(x.shape[0])
        _raise(self._c.dsctl_linear(_ref(w.argument), _ref(rows), count, _ref(to), ctypes.c_int(threads)))
        return out

    def moe(
        self, x: Tensor, chosen: tuple[Tensor, Tensor], w: Mlps, threads: int, addend: Tensor | None = None
    ) -> Tensor:
        """Σ over choices in order: weight · mlp(x), plus addend: x [T, H], chosen (ids, weights) [T, k] → [T, H]."""
        ids, weights = chosen
        _check_rows(x, w.gate.inputs)
        if ids.dtype != torch.int64 or weights.dtype != torch.float32:
            raise ValueError(f"expert ids must be int64 and weights float32, not {ids.dtype} and {weights.dtype}")
        ids, weights = ids.contiguous(), weights.contiguous()
        addend = None if addend is None else addend.contiguous()
        out = x.new_empty(x.shape)
        added = None if addend is None else addend.data_ptr()
        routing = structs.Routing(
            *(x.data_ptr(), x.shape[0], x.stride(0), ids.data_ptr(), weights.data_ptr(), ids.shape[1]),
            *(added, out.data_ptr(), threads),
        )
        _raise(self._c.dsctl_experts(*(_ref(matrix.argument) for matrix in w.matrices), _ref(routing)))
        return out

    def route(self, rule: structs.Router, logits: Tensor) -> tuple[Tensor, Tensor]:
        """logits float32 [T, E] → ids int64 and weights float32 [T, k], best first, lowest id first among equals."""
        logits = logits.contiguous()
        ids = torch.empty(logits.shape[0], rule.top_k, dtype=torch.int64)
        weights = torch.empty(ids.shape)
        count = ctypes.c_int64(logits.shape[0])
        _raise(self._c.dsctl_route(_ref(rule), _at(logits), count, _at(ids), _at(weights)))
        return ids, weights

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x²) + eps) · weight for each row of x [T, n]."""
        x = x.contiguous()
        out = torch.empty_like(x)
        rows, width = ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1])
        _raise(self._c.dsctl_norm(_at(x), _at(weight), rows, width, ctypes.c_float(eps), _at(out)))
        return out

    def layers(
        self, layers: Sequence[structs.Layer], batch: structs.Batch, x: Tensor, caches: Sequence[Tensor]
    ) -> None:
        """Run decoder layers over the residual stream x [rows, hidden], in place; caches[i] belongs to layers[i]."""
        count = len(layers)
        pointers = (ctypes.POINTER(structs.Layer) * count)(*map(ctypes.pointer, layers))
        memory = (ctypes.c_void_p * count)(*(layer.data_ptr() for layer in caches))
        _raise(self._c.dsctl_layers(pointers, ctypes.c_int64(count), _ref(batch), _at(x), memory))

    def contenders(self, draws: Sequence[Draw]) -> list[Ids | None]:
        """For each draw the ids, rising, of which one wins; None where they are too many. On torch's threads."""
        ids = np.empty((len(draws), CONTENDERS), dtype=np.int64)
        found = np.empty(len(draws), dtype=np.int64)
        arguments = (structs.Draw * max(1, len(draws)))()
        for i, draw in enumerate(draws):
            row = draw.logits
            if row.dtype != np.float32 or not row.flags.c_contiguous or not row.size:
                raise ValueError(f"logits must be neighbouring float32 values, not {row.dtype} {row.shape}")
            arguments[i] = structs.Draw(
                *(row.ctypes.data, row.size, draw.temperature, *draw.address, ids[i].ctypes.data, CONTENDERS)
            )
        count, at = ctypes.c_int64(len(draws)), ctypes.c_void_p(found.ctypes.data)
        _raise(self._c.dsctl_contenders(arguments, count, at, ctypes.c_int(torch.get_num_threads())))
        return [ids[i, :n] if n >= 0 else None for i, n in enumerate(found.tolist())]

    def sizes(self, into: ctypes.Array[ctypes.c_int64]) -> int:
        """Write the compiler's sizes of the mirrored structures into an array of 9; returns how many there are."""
        return int(self._c.dsctl_sizes(into))

    def profile(self, *, on: int) -> list[Spent]:
        """Switch the profile of `layers`: 0 off, 1 wall time, 2 the thread's own time. What was spent until now."""
        kinds = [(ctypes.c_int64 * len(OPERATIONS))() for _ in range(3)]
        if self._c.dsctl_profile(ctypes.c_int(on), *kinds) != len(OPERATIONS):
            raise RuntimeError("the kernels know other operations than this module")
        return [Spent(name, *values) for name, *values in zip(OPERATIONS, *kinds, strict=True)]

    def stream(self, memory: Tensor, threads: int) -> None:
        """Read `memory` once with wide loads: the yardstick for every other kernel."""
        sink = ctypes.c_float()
        size = ctypes.c_int64(memory.numel() * memory.element_size())
        self._c.dsctl_stream(_at(memory), size, _ref(sink), ctypes.c_int(threads))


def _ref(value: ctypes.Structure | ctypes.c_float) -> object:
    return ctypes.byref(value)


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check_rows(x: Tensor, inputs: int) -> None:
    if x.dtype != torch.float32 or x.shape[-1] != inputs or x.stride(-1) != 1:
        raise ValueError(f"rows must be float32 […, {inputs}] with neighbouring values, not {x.dtype} {tuple(x.shape)}")


def _raise(status: int) -> None:
    if status == -1:
        raise MemoryError("a kernel could not get its workspace")
    if status != 0:
        raise ValueError("the kernels have no code for this combination of weight formats or sizes")


@cache
def load(isa: str | None = None) -> Library | None:
    """The best build that this machine can compile and run, or None (said once, in the log) when there is none.

    Raises ConfigError when `isa` (or the environment) names an instruction set that cannot run here.
    """
    reason = ""
    for candidate in usable(isa):
        try:
            return Library(build(candidate), candidate.name)
        except (BuildError, OSError) as error:
            reason = reason or str(error)
    _log.warning("fast kernels are off, torch computes instead (slower, same model): %s", reason)
    return None
