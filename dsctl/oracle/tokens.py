"""The oracle's tokens: token i of choice c is a hash of (seed, c, i), so anyone can tell what a client must see."""

from __future__ import annotations

VOCABULARY = 50_000
_MASK = (1 << 64) - 1
_SYLLABLES = ("ka", "lo", "mi", "ru", "té", "sø", "を", "字", "🙂", "za")  # multi-byte on purpose
STOP_EVERY = 997  # a token divisible by this ends the choice with "stop"


def token_at(seed: int, choice: int, position: int) -> int:
    """The id of the token at `position` of `choice` for `seed`."""
    x = (seed + 0x9E3779B97F4A7C15 * (position + 1) + 0xBF58476D1CE4E5B9 * (choice + 1)) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return (x ^ (x >> 31)) % VOCABULARY


def piece(token: int) -> str:
    """The text of one token."""
    return f" {_SYLLABLES[token % 10]}{token}"


def text_of(ids: list[int]) -> str:
    """The text of a list of ids; the token that ends a choice has none."""
    return "".join(piece(token) for token in ids if token % STOP_EVERY)


def expected_ids(seed: int, choice: int, max_tokens: int, *, ignore_eos: bool = False) -> tuple[list[int], str]:
    """All ids of a choice that nothing disturbs, and its finish_reason."""
    ids: list[int] = []
    for position in range(max_tokens):
        token = token_at(seed, choice, position)
        ids.append(token)
        if token % STOP_EVERY == 0 and not ignore_eos:
            return ids, "stop"
    return ids, "length"
