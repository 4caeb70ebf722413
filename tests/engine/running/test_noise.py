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
    c0, c1, c2, c3, k0, k1 = (np.array([7, word, 9], dtype=np.uint64) for word in (*counter, *key))
    assert tuple(int(word[1]) for word in noise.philox((c0, c1, c2, c3), (k0, k1))) == expected


def test_the_address_is_laid_out_as_documented() -> None:
    """Vocabulary id v has lane v % 4 of counter (v // 4, position, choice, position's high word), key = seed."""
    counter, key, expected = VECTORS[2]
    c0, position, choice, high = counter
    address = (key[0] | key[1] << 32, choice, position | high << 32)
    (found,) = noise.gumbel([address], [np.arange(4 * c0, 4 * c0 + 4)], 1 << 40)
    uniform = (np.array(expected, dtype=np.float64) + 0.5) / 2**32
    assert found == pytest.approx(-np.log(-np.log(uniform)), abs=1e-15)


@pytest.mark.parametrize("vocab", [1, 5, 262, 1001, 40003])
def test_a_value_depends_on_its_own_address_only(vocab: int) -> None:
    """Any subset of ids, alone or beside other rows, has the very bits it has among all ids."""
    address = (2**64 - 3, 2, 70000)
    (everything,) = noise.gumbel([address], [np.arange(vocab)], vocab)
    rng = np.random.default_rng(vocab)
    for count in (0, 1, 2, 17, vocab):
        ids = np.sort(rng.choice(vocab, min(count, vocab), replace=False))
        assert (noise.gumbel([address], [ids], vocab)[0] == everything[ids]).all()
        others = [(5, 0, i) for i in range(3)]
        rows = [ids, np.arange(vocab), ids, ids[:1]]
        found = noise.gumbel([others[0], address, *others[1:]], rows, vocab)
        assert (found[1] == everything).all()
        assert [one.size for one in found] == [one.size for one in rows]
        for row, other, values in zip((rows[0], *rows[2:]), others, (found[0], *found[2:]), strict=True):
            assert (noise.gumbel([other], [row], 9 * vocab)[0] == values).all()


def test_every_part_of_the_address_counts() -> None:
    """Another seed (low or high half), choice or position gives other noise."""
    ids = np.arange(8)
    rows = [(5, 0, 0), (6, 0, 0), (5 + 2**32, 0, 0), (5, 1, 0), (5, 0, 1), (5, 0, 2**32)]
    assert len({noise.gumbel([row], [ids], 8)[0].tobytes() for row in rows}) == len(rows)


def test_the_distribution_is_gumbel() -> None:
    """Mean Euler's constant, variance π²/6, and the bound that the sampler relies on holds."""
    values = np.concatenate(noise.gumbel([(1, 0, i) for i in range(10)], [np.arange(20000)] * 10, 20000))
    assert abs(values.mean() - 0.5772156649) < 0.01
    assert abs(values.var() - np.pi**2 / 6) < 0.03
    assert np.isfinite(values).all()
    assert values.max() <= noise.LARGEST
