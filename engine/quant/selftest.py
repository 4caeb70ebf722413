"""Compares the compiled kernels with their references on this machine: `python -m engine.quant.selftest`."""

from __future__ import annotations

import sys

import torch

from engine.kernels.cpu.library import Library, load
from engine.quant import int4, int8
from engine.quant.policy import convert

SHAPE = (130, 288)  # outputs, inputs: whole blocks and a rest of both
ROWS = (1, 3, 17)
TOLERANCE = 1e-4  # relative to the largest value of the reference


def differences(library: Library) -> list[str]:
    """A sentence for every format whose result is not the reference's; empty when all agree."""
    made = torch.Generator().manual_seed(7)
    weight = torch.randn(*SHAPE, generator=made)
    found: list[str] = []
    for name in ("float32", "bfloat16", "int8", "int4"):
        matrix = convert(weight, name)
        for rows in ROWS:
            x = torch.randn(rows, SHAPE[1], generator=made)
            got, right = library.linear(matrix, x, 1), _reference(x, weight, name)
            gap = float((got - right).abs().max() / right.abs().max())
            if not gap <= TOLERANCE:  # NaN is a difference too
                found.append(f"{name}, {rows} rows: {gap:.2e} away from the reference")
    return found


def _reference(x: torch.Tensor, weight: torch.Tensor, name: str) -> torch.Tensor:
    if name == "int8":
        return int8.linear(x, int8.quantise(weight))
    if name == "int4":
        return int4.linear(x, int4.quantise(weight))
    held = weight.bfloat16() if name == "bfloat16" else weight
    return (x.double() @ held.double().t()).float()


def main() -> int:
    """0 when all agree, 1 when they do not, 3 when this machine has no compiled kernels."""
    library = load()
    if library is None:
        sys.stdout.write("no compiled kernels on this machine\n")
        return 3
    found = differences(library)
    sys.stdout.write("; ".join(found) + "\n" if found else f"{library.name} agrees with the reference\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
