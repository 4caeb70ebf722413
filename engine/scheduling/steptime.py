"""How long a step will take: a cost model that is fitted to the steps just seen.

t = a + w · distinct experts(tokens) + b · tokens + c · context, with coefficients that are never negative. Recursive
least squares in information form: each size class of steps keeps a decaying sum of its own observations, so a long
time of nothing but decoding does not wear out what was learned of prompts. What makes all steps slower or faster, such
as other programs, is one factor beside, which follows quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 0.95  # share of a size class's sums that one more step of it leaves: about the last twenty count
PRIOR = 1e-3  # pull towards the present coefficients, as a share of each feature's weight
STRANGE = 3.0  # deviations from which on an observation is drawn in to that far
SMOOTHING = 0.1  # weight of the newest deviation in their running mean
PACE_GAIN = 0.15  # share of a step's deviation that is held to be everybody's
LEAST_DEVIATION = 0.02  # relative; below it nothing is strange
_SIZE = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What a step costs by: rows, and for all rows together the positions that they attend to."""

    tokens: int = 0
    context: int = 0

    def plus(self, start: int, count: int) -> Load:
        """With rows at positions start … start + count - 1 of one sequence beside."""
        return Load(self.tokens + count, self.context + count * start + count * (count + 1) // 2)


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """What decides how many experts of a layer a step reads."""

    experts: int
    top_k: int

    def distinct(self, tokens: int) -> float:
        """Experts that `tokens` rows are expected to visit when each chooses top_k at random."""
        return self.experts * (1.0 - (1.0 - self.top_k / self.experts) ** tokens) if self.experts else 0.0


DENSE = ExpertShape(0, 1)


class StepTime:
    """Seconds of a step by its load."""

    def __init__(self, shape: ExpertShape) -> None:
        self._shape = shape
        self._classes: dict[int, _Sums] = {}
        self._coefficients: Vector = [0.0] * _SIZE
        self._slowness = 1.0  # what all coefficients are multiplied with now
        self.deviation = 0.0  # running mean of |seen / predicted - 1|

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Seconds: of a step, of an expert, of a row, of a position attended to."""
        return tuple(self._slowness * value for value in self._coefficients)

    def predict(self, load: Load) -> float:
        """Seconds; 0 before anything was seen."""
        return self._slowness * _dot(self._coefficients, self._features(load))

    def learn(self, load: Load, seconds: float) -> bool:
        """Take in one step. One that is strangely slow or fast counts as the edge of what is not strange.

        The first of a size class only warms memory up: it is passed over, and False is returned.
        """
        size = load.tokens.bit_length()
        if size not in self._classes:
            self._classes[size] = _Sums()
            return False
        expected = self.predict(load)
        if expected > 0:
            off = seconds / expected - 1.0
            edge = STRANGE * max(self.deviation, LEAST_DEVIATION)
            seen = min(abs(off), 2 * edge)  # a lasting change widens the edge step by step until it is let in
            self.deviation += SMOOTHING * (seen - self.deviation)
            off = max(-edge, min(off, edge))
            seconds = expected * (1.0 + off)
            self._slowness *= 1.0 + PACE_GAIN * off
        seconds /= self._slowness
        scale = expected / self._slowness or seconds
        row = [value / scale for value in self._features(load)]
        self._classes[size].add(row, seconds / scale)
        self._coefficients = self._fitted()
        return True

    def _features(self, load: Load) -> Vector:
        return [1.0, self._shape.distinct(load.tokens), float(load.tokens), float(load.context)]

    def _fitted(self) -> Vector:
        """Least squares over all classes, drawn a little towards the present, without negative coefficients."""
        total = _Sums()
        for sums in self._classes.values():
            total.merge(sums)
        for i, old in enumerate(self._coefficients):
            pull = PRIOR * total.matrix[i][i]
            total.matrix[i][i] += pull
            total.vector[i] += pull * old
        active = [i for i in range(_SIZE) if total.matrix[i][i] > 0]
        while active:
            found = _solve([[total.matrix[i][j] for j in active] for i in active], [total.vector[i] for i in active])
            worst = min(range(len(found)), key=found.__getitem__)
            if found[worst] >= 0:
                return [found[active.index(i)] if i in active else 0.0 for i in range(_SIZE)]
            del active[worst]
        return [0.0] * _SIZE


Vector = list[float]


class _Sums:
    """Σ x xᵀ and Σ x y of some observations."""

    __slots__ = ("matrix", "vector")

    def __init__(self) -> None:
        self.matrix: list[Vector] = [[0.0] * _SIZE for _ in range(_SIZE)]
        self.vector: Vector = [0.0] * _SIZE

    def add(self, x: Vector, y: float) -> None:
        for i, one in enumerate(x):
            line = self.matrix[i]
            for j, other in enumerate(x):
                line[j] = line[j] * KEPT + one * other
            self.vector[i] = self.vector[i] * KEPT + one * y

    def merge(self, other: _Sums) -> None:
        for i in range(_SIZE):
            self.vector[i] += other.vector[i]
            for j in range(_SIZE):
                self.matrix[i][j] += other.matrix[i][j]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _solve(matrix: list[Vector], vector: Vector) -> Vector:
    """x of a symmetric positive definite system, by elimination after scaling its diagonal to 1."""
    size = len(vector)
    scale = [1.0 / matrix[i][i] ** 0.5 for i in range(size)]
    rows = [[matrix[i][j] * scale[i] * scale[j] for j in range(size)] + [vector[i] * scale[i]] for i in range(size)]
    for i, line in enumerate(rows):
        for below in rows[i + 1 :]:
            factor = below[i] / line[i]
            for j in range(i, size + 1):
                below[j] -= factor * line[j]
    found: Vector = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (rows[i][size] - _dot(rows[i][i + 1 : size], found[i + 1 :])) / rows[i][i]
    return [value * scale[i] for i, value in enumerate(found)]
