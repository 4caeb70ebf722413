"""Random weights of the right shapes, made by name when asked for: to measure a model without its checkpoint."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from engine.modeling.tensors import Shapes
from engine.quant import int4, int8
from engine.quant.compressed import Quantised
from engine.spec.matrices import group_of
from engine.spec.policy import Policy

_UNQUANTISED = ("norm.weight", ".mlp.gate.weight", "e_score_correction_bias", "embed_tokens.weight")
_NORMAL = NormalDist()


class Dummy:
    """The same values for the same name, always; standard deviation 1 / √inputs, norms 1.

    Matrices that the policy quantises are drawn as whole numbers, with the frequencies that a rounded normal law gives
    them, and with the scale that is expected for their deviation, the same for all channels or groups: making floats
    first and rounding them takes ten times as long. Their bytes are spread over experts and memory like any others;
    only the scales vary less than those of a real model.
    """

    def __init__(self, expected: Shapes, policy: Policy | None = None) -> None:
        self._expected = expected
        self._policy = policy or Policy()
        self._last: tuple[str, Quantised | None] = ("", None)

    def quantised(self, name: str) -> Quantised | None:
        """Whole numbers where the policy wants such, else None."""
        if self._last[0] != name:
            self._last = (name, self._drawn(name))
        return self._last[1]

    def get(self, name: str) -> Tensor:
        """Values float32."""
        found = self.quantised(name)
        if found is not None:
            values = int4.dequantise(found) if isinstance(found, int4.Quantised) else int8.dequantise(found)
            return values[0]
        shape = self._expected[name]
        if name.endswith("norm.weight"):
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(_seed(name))
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    def _drawn(self, name: str) -> Quantised | None:
        shape = self._expected[name]
        wanted = "none" if name.endswith(_UNQUANTISED) else self._policy.of_tensor(name)
        if wanted == "none" or len(shape) != 2:
            return None
        outputs, inputs = shape
        group = group_of(inputs) if wanted == "int4" else 0
        table, step = _law(group)
        chosen = np.random.Generator(np.random.Philox(_seed(name))).bytes(outputs * inputs)
        numbers = torch.frombuffer(bytearray(chosen.translate(table)), dtype=torch.uint8).view(1, outputs, inputs)
        scale = step / math.sqrt(inputs)
        if group:
            return int4.Quantised(
                numbers, torch.full((1, outputs, inputs // group), scale, dtype=torch.bfloat16), group
            )
        return int8.Quantised(numbers.view(torch.int8), torch.full((1, outputs), scale))


@cache
def _law(group: int) -> tuple[bytes, float]:
    """Which number a random byte stands for, and a number's step in standard deviations; group 0: int8.

    The scale of int4 is that of a group whose extreme is what is expected of `group` draws.
    """
    places = [_NORMAL.inv_cdf((i + 0.5) / 256) for i in range(256)]
    if not group:
        step = places[-1] / 127
        return bytes(round(place / step) & 255 for place in places), step
    step = _NORMAL.inv_cdf(1 - 0.375 / group / 2) / 8
    return bytes(min(15, max(0, round(place / step) + 8)) for place in places), step


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
