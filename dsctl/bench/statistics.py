"""Percentiles, shares and intervals, each with the number of samples it needs before it may be shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Percentiles in thousandths, so that the ranks and the sample rule are exact integers and not float accidents.
PERCENTILES: dict[str, int] = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p999": 999}
CONFIDENCE = 0.95


def needed(mille: int) -> int:
    """The least n at which a percentile may be shown: 10 / (1 − p), so that ten samples lie beyond it."""
    return math.ceil(10_000 / (1000 - mille))


def rank(n: int, mille: int) -> int:
    """The place (from 0) of a percentile among n sorted values: the least value that p of them do not exceed."""
    return max(0, -(-n * mille // 1000) - 1)


def percentile(ordered: Values, mille: int) -> float | None:
    """A percentile of sorted values, always one of them (numpy's `inverted_cdf`); None when there are too few.

    Taking an observed value instead of a mixture of two keeps it defined where values are +∞ (failures).
    """
    n = len(ordered)
    return float(ordered[rank(n, mille)]) if n >= needed(mille) else None


def percentile_interval(ordered: Values, mille: int, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """A distribution-free interval between two order statistics (normal approximation of the binomial)."""
    n = len(ordered)
    if n < needed(mille):
        return None
    p = mille / 1000
    reach = normal_quantile(0.5 + confidence / 2) * math.sqrt(n * p * (1 - p))
    low = max(0, math.floor(n * p - reach) - 1)
    high = min(n - 1, math.ceil(n * p + reach))
    return float(ordered[low]), float(ordered[high])


def mean_interval(values: Values, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Student's interval of a mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    reach = t_quantile(0.5 + confidence / 2, n - 1) * spread / math.sqrt(n)
    return mean - reach, mean + reach


def wilson(good: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was tried. Right also where good is 0 or total."""
    if total == 0:
        return 0.0, 1.0
    z2 = normal_quantile(0.5 + confidence / 2) ** 2
    share = good / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    reach = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total * total))) / (1 + z2 / total)
    low = 0.0 if good == 0 else max(0.0, centre - reach)
    high = 1.0 if good == total else min(1.0, centre + reach)
    return low, high


def normal_quantile(p: float) -> float:
    """The standard normal's quantile."""
    return NormalDist().inv_cdf(p)


def t_quantile(p: float, freedom: float) -> float:
    """Student's quantile for 0.5 ≤ p < 1 and any real number of degrees of freedom ≥ 1; the normal's from 1e5 on."""
    if freedom >= 1e5:
        return normal_quantile(p)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: float) -> float:
    """Student's distribution for t ≥ 0, by Simpson's rule after x = √ν·tan θ, which makes the range finite."""
    steps = 400
    end = math.atan(t / math.sqrt(freedom))
    angles = np.linspace(0.0, end, steps + 1)
    heights = np.cos(angles) ** (freedom - 1)
    weights = np.full(steps + 1, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    area = float((heights * weights).sum()) * end / steps / 3
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * area


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line's rise with its interval."""

    value: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        """True when the whole interval lies above zero."""
        return self.low > 0


def slope(x: Sequence[float], y: Sequence[float], confidence: float = CONFIDENCE) -> Slope | None:
    """The least-squares rise of y over x with Student's interval; None below three points or without spread in x."""
    n = len(x)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if n < 3 or float(np.ptp(xs)) == 0.0:
        return None
    dx = xs - xs.mean()
    value = float((dx * (ys - ys.mean())).sum() / (dx**2).sum())
    left = ys - ys.mean() - value * dx
    error = math.sqrt(float((left**2).sum()) / (n - 2) / float((dx**2).sum()))
    reach = t_quantile(0.5 + confidence / 2, n - 2) * error
    return Slope(value, value - reach, value + reach)


def ordered(values: Sequence[float] | Values, lost: int = 0) -> Values:
    """Sorted values, with one +∞ for each of `lost` requests that has no value because it failed."""
    found = np.sort(np.asarray(values, dtype=np.float64))
    return np.concatenate([found, np.full(lost, np.inf)]) if lost else found
