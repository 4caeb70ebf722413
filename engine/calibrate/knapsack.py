"""Which unit gets which number format: the least loss within so many bytes, or the fewest bytes within so much loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STEPS: Final = 8192  # resolution of the limit


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to hold one unit."""

    cost: float  # what the limit bounds; at least 0
    loss: float  # what is to be small


def solve(units: Sequence[Sequence[Choice]], limit: float) -> list[int] | None:
    """For each unit the index of its choice such that Σ cost ≤ limit and Σ loss is least; None when nothing fits.

    Costs beyond each unit's cheapest are rounded up to limit / STEPS, so what is found always fits; the cheapest
    choices alone are exact, so they are found even when nothing else fits.
    """
    floors = [min(choice.cost for choice in unit) for unit in units]
    room = limit - math.fsum(floors)
    if room < 0:
        return None
    step = room / STEPS
    best: list[float] = [0.0] + [math.inf] * STEPS  # least loss with exactly this many steps spent
    taken: list[list[int]] = []
    for unit, floor in zip(units, floors, strict=True):
        sizes = [_steps(choice.cost - floor, step) for choice in unit]
        fresh, chosen = [math.inf] * (STEPS + 1), [-1] * (STEPS + 1)
        for spent, loss in enumerate(best):
            if loss == math.inf:
                continue
            for index, choice in enumerate(unit):
                place = spent + sizes[index]
                if place <= STEPS and loss + choice.loss < fresh[place]:
                    fresh[place], chosen[place] = loss + choice.loss, index
        best = fresh
        taken.append(chosen)
    place = min(range(STEPS + 1), key=lambda at: best[at])
    found: list[int] = []
    for unit, floor, chosen in reversed(list(zip(units, floors, taken, strict=True))):
        index = chosen[place]
        found.append(index)
        place -= _steps(unit[index].cost - floor, step)
    return found[::-1]


def _steps(cost: float, step: float) -> int:
    """Rounded up; without any room only nothing fits."""
    if cost <= 0:
        return 0
    return min(STEPS + 1, math.ceil(min(cost / step, STEPS + 1))) if step > 0 else STEPS + 1
