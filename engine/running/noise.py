"""Random numbers that depend on their address alone: (seed, choice, position, vocabulary id), not on what came before.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # 32-bit words, held in 64 bits so that products are whole
Ids = NDArray[np.int64]

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
LANES = 4  # words of one counter: vocabulary id v has lane v % 4 of counter v // 4
LARGEST = float(-np.log(-np.log((2.0**32 - 0.5) / 2.0**32)))  # no noise value is above this


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Four words per counter, elementwise over arrays of equal or broadcastable shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _words(seed: int, choice: int, position: int, blocks: Words) -> Words:
    """Words [len(blocks), 4] of the counters (block, position, choice, position's high word)."""
    c1, c2, c3 = (np.full(1, word, dtype=np.uint64) for word in (position & 0xFFFFFFFF, choice, position >> 32))
    return np.stack(np.broadcast_arrays(*philox((blocks, c1, c2, c3), (seed & 0xFFFFFFFF, seed >> 32))), axis=-1)


def gumbel(seed: int, choice: int, position: int, ids: Ids, vocab_size: int) -> NDArray[np.float64]:
    """Gumbel noise of the given vocabulary ids, float64 [len(ids)]; each value depends on its own id alone."""
    if ids.size * LANES >= vocab_size:
        every = np.arange(-(-vocab_size // LANES), dtype=np.uint64)
        words = _words(seed, choice, position, every).reshape(-1)[ids]
    else:
        words = _words(seed, choice, position, (ids // LANES).astype(np.uint64))[np.arange(ids.size), ids % LANES]
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log(-np.log(uniform))
