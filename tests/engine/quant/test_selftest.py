"""The comparison of compiled kernels with their references that `dsctl doctor --deep` runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.cpu.library import Library, load
from engine.kernels.cpu.matrix import Matrix
from engine.quant import selftest


def test_the_kernels_of_this_machine_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """0 where compiled kernels are, 3 where there are none; never a difference."""
    assert selftest.main() == (0 if load() is not None else 3)
    assert capsys.readouterr().out.strip()


class Wrong(Library):
    """Kernels that compute something else."""

    def __init__(self, value: float) -> None:
        self.isa = "wrong"
        self._value = value

    def linear(self, w: Matrix, x: Tensor, threads: int) -> Tensor:
        return torch.full((x.shape[0], selftest.SHAPE[0]), self._value)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_wrong_kernels_are_found(value: float) -> None:
    """Other numbers and NaN are differences, in every format and for every number of rows."""
    assert len(selftest.differences(Wrong(value))) == 4 * len(selftest.ROWS)
