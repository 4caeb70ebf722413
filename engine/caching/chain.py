"""Keys of full cache blocks: each key covers every token from position 0 on, and the role of each token."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

KEY_BYTES = 16  # 128 bits: a chance meeting of two beginnings is out of reach


def root(salt: bytes = b"") -> bytes:
    """The key before the first block. Different salts never share blocks."""
    return blake2b(salt, digest_size=KEY_BYTES, person=b"prefix-root").digest()


NO_SALT = root()


def extend(keys: list[bytes], tokens: Sequence[int], prompt_len: int, block_size: int, first: bytes = NO_SALT) -> None:
    """Append to `keys` those of all full blocks of `tokens`; `first` is the key before the first block.

    The first `prompt_len` tokens have the prompt role, the rest are generated. Within one sequence the roles change
    once, so a block's roles are said by how many of its tokens are prompt tokens.
    """
    for index in range(len(keys), len(tokens) // block_size):
        start = index * block_size
        prompt_tokens = min(max(prompt_len - start, 0), block_size)
        parent = keys[-1] if keys else first
        content = array("q", [prompt_tokens, *tokens[start : start + block_size]]).tobytes()
        keys.append(blake2b(parent + content, digest_size=KEY_BYTES).digest())
