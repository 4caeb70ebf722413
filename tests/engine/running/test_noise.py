"""The noise is Philox4x32-10, addressed by counter, and distributed as it should be."""

from __future__ import annotations

import numpy as np
import pytest

from engine.running import noise

ONES = 0xFFFFFFFF
VECTORS = [  # counter, key, output: the generator's published known answers
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """The published test vectors come out, also in the middle of an array."""
    words = [np.array([7, word, 9], dtype=np.uint64) for word in counter]
    assert tuple(int(word[1]) for word in noise.philox((words[0], words[1], words[2], words[3]), key)) == expected


@pytest.mark.parametrize("vocab", [1, 5, 262, 1001, 32003])
def test_a_value_depends_on_its_own_id_only(vocab: int) -> None:
    """Any subset of ids has the very bits it has among all ids."""
    everything = noise.gumbel(2**64 - 3, 2, 70000, np.arange(vocab), vocab)
    rng = np.random.default_rng(vocab)
    for count in (1, 2, min(vocab, 17)):
        ids = np.sort(rng.choice(vocab, min(count, vocab), replace=False))
        assert (noise.gumbel(2**64 - 3, 2, 70000, ids, vocab) == everything[ids]).all()
    assert (noise.gumbel(2**64 - 3, 2, 70000, np.arange(vocab), 2 * vocab)[:vocab] == everything).all()


def test_every_part_of_the_address_counts() -> None:
    """Another seed (low or high half), choice or position gives other noise."""
    ids = np.arange(8)
    rows = [(5, 0, 0), (6, 0, 0), (5 + 2**32, 0, 0), (5, 1, 0), (5, 0, 1), (5, 0, 2**32)]
    assert len({noise.gumbel(*row, ids, 8).tobytes() for row in rows}) == len(rows)


def test_the_distribution_is_gumbel() -> None:
    """Mean Euler's constant, variance π²/6, and the bound that the sampler relies on holds."""
    values = np.concatenate([noise.gumbel(1, 0, i, np.arange(20000), 20000) for i in range(10)])
    assert abs(values.mean() - 0.5772156649) < 0.01
    assert abs(values.var() - np.pi**2 / 6) < 0.03
    assert np.isfinite(values).all()
    assert values.max() <= noise.LARGEST
