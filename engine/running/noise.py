"""Random numbers that depend on their address alone: (seed, choice, position, vocabulary id), not on what came before.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # 32-bit words, held in 64 bits so that products are whole
Ids = NDArray[np.int64]
Address = tuple[int, int, int]  # seed, choice, position

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
LANES = 4  # words of one counter: vocabulary id v has lane v % 4 of counter v // 4
_AT_ONCE = 1 << 14  # ids
LARGEST = float(-np.log(-np.log((2.0**32 - 0.5) / 2.0**32)))  # no noise value is above this


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Four words per counter, elementwise over arrays of equal or broadcastable shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def gumbel(addresses: Sequence[Address], ids: Sequence[Ids], vocab_size: int) -> list[NDArray[np.float64]]:
    """Gumbel noise of each row's vocabulary ids, float64 like `ids`; a value depends on its address and id alone.

    Rows are computed together to save calls, but no more at once than stay in the processor's cache.
    """
    noise: list[NDArray[np.float64]] = [np.empty(0)] * len(ids)
    most = max(1, _AT_ONCE // vocab_size)
    dense = [i for i, one in enumerate(ids) if one.size * LANES >= vocab_size]
    for group in (dense[first : first + most] for first in range(0, len(dense), most)):
        whole = _of_every_id([addresses[i] for i in group], vocab_size)
        for i, values in zip(group, whole, strict=True):
            noise[i] = values[ids[i]]
    sparse = [i for i, one in enumerate(ids) if one.size * LANES < vocab_size]
    for group in (sparse[first : first + LANES * most] for first in range(0, len(sparse), LANES * most)):
        for i, values in zip(group, _of_some_ids([addresses[i] for i in group], [ids[i] for i in group]), strict=True):
            noise[i] = values
    return noise


def _of_every_id(addresses: Sequence[Address], vocab_size: int) -> NDArray[np.float64]:
    """Float64 [rows, vocab]."""
    blocks = np.arange(-(-vocab_size // LANES), dtype=np.uint64)[None, :]
    c1, c2, c3, k0, k1 = _fields(addresses).T[:, :, None]
    uniform = np.empty((len(addresses), blocks.size, LANES))
    for lane, words in enumerate(philox((blocks, c1, c2, c3), (k0, k1))):
        uniform[:, :, lane] = words
    return _shape(uniform.reshape(len(addresses), -1)[:, :vocab_size])


def _of_some_ids(addresses: Sequence[Address], ids: Sequence[Ids]) -> list[NDArray[np.float64]]:
    """One array per row; a counter is computed anew for each of its lanes that is wanted."""
    counts = [one.size for one in ids]
    flat = np.concatenate(ids)
    c1, c2, c3, k0, k1 = np.repeat(_fields(addresses).T, counts, axis=1)
    words = np.choose(flat % LANES, philox(((flat // LANES).astype(np.uint64), c1, c2, c3), (k0, k1)))
    return np.split(_shape(words.astype(np.float64)), np.cumsum(counts)[:-1])


def _fields(addresses: Sequence[Address]) -> Words:
    """Counter words 1 … 3 and the key of each row [rows, 5]; counter word 0 is the vocabulary id's block."""
    rows = [
        (position & 0xFFFFFFFF, choice, position >> 32, seed & 0xFFFFFFFF, seed >> 32)
        for seed, choice, position in addresses
    ]
    return np.array(rows, dtype=np.uint64)


def _shape(words: NDArray[np.float64]) -> NDArray[np.float64]:
    """32-bit words to Gumbel noise."""
    return -np.log(-np.log((words + 0.5) * 2.0**-32))
