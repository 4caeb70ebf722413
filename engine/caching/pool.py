"""The pool of cache blocks: who holds which, which can be found again by its key, which is given up first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Block ids 0 … total-1, each in exactly one state.

    free: held by nobody and not findable. cached: held by nobody, findable by its key, given up oldest first.
    used: held by one or more block tables, findable once its owner has published it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the longest unused first
        self._refs: dict[int, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks nobody holds that a later sequence may still find."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks in at least one block table."""
        return len(self._refs)

    @property
    def available(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._free) + len(self._cached)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest known beginning of `keys`; holds nothing."""
        hits: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            hits.append(block)
        return hits

    def acquire(self, keys: Sequence[bytes], count: int) -> tuple[list[int], int] | None:
        """A block table of `count` blocks and how many of them were found by `keys`; None, and no change, if too few.

        Finding and holding is one act: what was found cannot be given up in between.
        """
        hits = self.match(keys[:count])
        idle_hits = sum(1 for block in hits if block in self._cached)
        if count - len(hits) > self.available - idle_hits:
            return None
        for block in hits:
            self._cached.pop(block, None)
            self._refs[block] = self._refs.get(block, 0) + 1
        return hits + [self._take() for _ in range(count - len(hits))], len(hits)

    def _take(self) -> int:
        """One empty block, given up by the cache if need be; the caller knows that one is available."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._refs[block] = 1
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Make a full, used block findable. If another block already answers to the key, that one stays."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self, blocks: Iterable[int]) -> None:
        """Make blocks unfindable because their content is not to be trusted."""
        for block in blocks:
            key = self._key_of.pop(block, None)
            if key is not None:
                del self._block_of[key]
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a block table. Its end is given up before its beginning, which more sequences share."""
        for block in reversed(blocks):
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            del self._refs[block]
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def reset(self) -> None:
        """Drop every cached block that no table holds."""
        self.forget(list(self._cached))

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books balance with the block tables now in use."""
        held = Counter(block for table in tables for block in table)
        assert held == self._refs, f"holders {dict(held)} differ from the counts {self._refs}"
        states = [set(self._free), set(self._cached), set(self._refs)]
        assert len(self._free) == len(states[0]), "a block is free twice"
        assert sum(map(len, states)) == self.total, f"{states} do not add up to {self.total} blocks"
        assert len(set[int]().union(*states)) == self.total, "a block is in two states"
        assert {block: key for key, block in self._block_of.items()} == self._key_of, "a key and its block disagree"
        assert not states[0] & set(self._key_of), "a free block is findable"
        assert states[1] <= set(self._key_of), "a cached block has no key"
