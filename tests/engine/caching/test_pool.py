"""Blocks are never lost, never held by mistake, and the oldest unused one goes first."""

from __future__ import annotations

import pytest

from engine.caching.pool import BlockPool


def _key(n: int) -> bytes:
    return bytes([n])


def _hold(pool: BlockPool, keys: list[bytes], count: int) -> list[int]:
    held = pool.acquire(keys, count)
    assert held is not None
    return held[0]


def test_acquire_is_all_or_nothing() -> None:
    """A request that does not fit changes nothing."""
    pool = BlockPool(4)
    first = _hold(pool, [], 3)
    assert pool.acquire([], 2) is None
    pool.check([first])
    assert (pool.free, pool.used) == (1, 3)


def test_published_blocks_are_found_again_after_release() -> None:
    """What was published is found by its keys, in order, and is held by everyone who found it."""
    pool = BlockPool(4)
    table = _hold(pool, [], 2)
    pool.publish(table[0], _key(1))
    pool.publish(table[1], _key(2))
    pool.release(table)
    assert (pool.free, pool.cached, pool.used) == (2, 2, 0)
    one = _hold(pool, [_key(1), _key(2)], 3)
    two = _hold(pool, [_key(1), _key(9)], 2)
    assert one[:2] == table
    assert two[0] == table[0]
    pool.check([one, two])


def test_matching_stops_at_the_first_gap() -> None:
    """A later block is of no use without the one before it."""
    pool = BlockPool(4)
    table = _hold(pool, [], 2)
    pool.publish(table[1], _key(2))
    assert pool.match([_key(1), _key(2)]) == []


def test_found_blocks_do_not_count_as_room() -> None:
    """A hit on an idle cached block uses up the room it lies in."""
    pool = BlockPool(2)
    table = _hold(pool, [], 1)
    pool.publish(table[0], _key(1))
    pool.release(table)
    assert pool.acquire([_key(1)], 3) is None
    pool.check([])
    assert len(_hold(pool, [_key(1)], 2)) == 2


def test_the_longest_unused_block_goes_first_and_ends_go_before_beginnings() -> None:
    """Eviction takes the table released first, from its end."""
    pool = BlockPool(4)
    old, new = _hold(pool, [], 2), _hold(pool, [], 2)
    for n, block in enumerate(old + new):
        pool.publish(block, _key(n))
    pool.release(old)
    pool.release(new)
    assert _hold(pool, [], 1) == [old[1]]
    assert pool.match([_key(0)]) == [old[0]]
    assert pool.match([_key(1)]) == []


def test_a_second_block_with_the_same_key_stays_anonymous() -> None:
    """Two sequences that computed the same beginning leave one findable block; the other is plainly freed."""
    pool = BlockPool(2)
    one, two = _hold(pool, [], 1), _hold(pool, [], 1)
    pool.publish(one[0], _key(1))
    pool.publish(two[0], _key(1))
    pool.check([one, two])
    pool.release(two)
    pool.release(one)
    assert (pool.free, pool.cached) == (1, 1)


def test_forgotten_blocks_are_never_found() -> None:
    """Forgetting works on held and on idle blocks."""
    pool = BlockPool(2)
    held, idle = _hold(pool, [], 1), _hold(pool, [], 1)
    pool.publish(held[0], _key(1))
    pool.publish(idle[0], _key(2))
    pool.release(idle)
    pool.forget([*held, *idle])
    assert pool.match([_key(1)]) == pool.match([_key(2)]) == []
    pool.check([held])
    pool.release(held)
    assert pool.free == 2


def test_reset_drops_idle_blocks_only() -> None:
    """After a reset, what a sequence holds can still be found, what nobody holds cannot."""
    pool = BlockPool(3)
    held, idle = _hold(pool, [], 1), _hold(pool, [], 1)
    pool.publish(held[0], _key(1))
    pool.publish(idle[0], _key(2))
    pool.release(idle)
    pool.reset()
    assert pool.match([_key(1)]) == held
    assert pool.match([_key(2)]) == []
    pool.check([held])


def test_the_check_sees_a_leak() -> None:
    """Books that do not match the tables are reported."""
    pool = BlockPool(2)
    _hold(pool, [], 1)
    with pytest.raises(AssertionError, match="holders"):
        pool.check([])
