"""Which tokens may be chosen at all: top-k, then top-p, then min-p, each decided from one row alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.running.noise import Ids

Row = NDArray[np.float64]

_FIRST_LOOK = 128  # tokens ranked before a nucleus is known to be larger


def ranked(row: Row, count: int) -> Ids:
    """Ids of the `count` largest values, largest first, equal values by lowest id; int64 [min(count, len)]."""
    if count < row.size:
        border = np.partition(row, row.size - count)[row.size - count]
        above = np.flatnonzero(row > border)
        ids = np.sort(np.concatenate((above, np.flatnonzero(row == border)[: count - above.size])))
    else:
        ids = np.arange(row.size)
    return ids[np.argsort(-row[ids], kind="stable")]


def nucleus(row: Row, top_k: int, top_p: float) -> Ids:
    """The shortest ranking whose probability reaches top_p, within the top_k (0: all) most likely."""
    most = min(top_k, row.size) if top_k > 0 else row.size
    weights = np.exp(row - row.max())
    whole = ranked(row, most) if most < row.size else None
    total = weights[np.sort(whole)].sum() if whole is not None else weights.sum()
    look = _FIRST_LOOK
    while True:
        ids = whole if whole is not None else ranked(row, look)
        reached = np.flatnonzero(np.cumsum(weights[ids]) >= top_p * total)
        if reached.size:
            return ids[: reached[0] + 1]
        if ids.size >= most:
            return ids
        look *= 8


def kept(row: Row, top_k: int, top_p: float, min_p: float) -> Ids | None:
    """Ids that may be chosen, in rising order; None when all may. `row` holds logits divided by the temperature."""
    ids: Ids | None = None
    if top_p < 1.0:
        ids = nucleus(row, top_k, top_p)
    elif 0 < top_k < row.size:
        ids = ranked(row, top_k)
    if min_p > 0.0:
        likely = np.flatnonzero(row >= row.max() + np.log(min_p))
        ids = likely if ids is None else np.intersect1d(ids, likely, assume_unique=True)
    return ids if ids is None else np.sort(ids)
