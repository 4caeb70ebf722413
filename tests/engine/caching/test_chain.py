"""The key of a block says everything its latents depend on."""

from __future__ import annotations

from engine.caching import chain


def _keys(tokens: list[int], prompt_len: int, size: int = 4, first: bytes = chain.NO_SALT) -> list[bytes]:
    keys: list[bytes] = []
    chain.extend(keys, tokens, prompt_len, size, first)
    return keys


def test_only_full_blocks_have_keys() -> None:
    """Eleven tokens in blocks of four make two keys."""
    assert len(_keys(list(range(11)), 11)) == 2


def test_a_key_covers_every_earlier_token() -> None:
    """A change in the first token changes every key; a change in the last block changes the last key only."""
    base = _keys([1, 2, 3, 4, 5, 6, 7, 8], 8)
    assert not set(base) & set(_keys([9, 2, 3, 4, 5, 6, 7, 8], 8))
    changed = _keys([1, 2, 3, 4, 5, 6, 7, 9], 8)
    assert changed[0] == base[0]
    assert changed[1] != base[1]


def test_a_key_covers_roles_at_every_offset() -> None:
    """The same ids with another border between prompt and generated never share the block the border lies in."""
    tokens = list(range(8))
    rows = [_keys(tokens, prompt_len) for prompt_len in range(9)]
    assert len({row[1] for row in rows}) == 9
    assert len({row[0] for row in rows}) == 5  # a border behind the first block does not touch it


def test_salts_keep_tenants_apart() -> None:
    """Different salts share no key."""
    tokens = list(range(8))
    assert not set(_keys(tokens, 8, first=chain.root(b"a"))) & set(_keys(tokens, 8, first=chain.root(b"b")))


def test_keys_grow_as_tokens_do() -> None:
    """Keys made in two goes equal keys made at once."""
    tokens = list(range(20))
    keys = _keys(tokens[:9], 6)
    chain.extend(keys, tokens, 6, 4)
    assert keys == _keys(tokens, 6)
