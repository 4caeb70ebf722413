"""The alphabet of byte-level BPE: every byte has a printable character, so a token's text is a spelling of bytes."""

from __future__ import annotations

from typing import Any, cast


def _alphabet() -> dict[str, int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    spare = 256
    for byte in range(256):
        if byte not in plain:
            table[chr(spare)] = byte
            spare += 1
    return table


_BYTE_OF = _alphabet()


def token_bytes(token: str) -> bytes:
    """Bytes that a byte-level token spells; a token with any other character stands for its own UTF-8."""
    try:
        return bytes(_BYTE_OF[char] for char in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def is_byte_level(decoder: Any) -> bool:
    """Whether a tokenizer.json decoder section is byte-level and nothing else."""
    if not isinstance(decoder, dict):
        return False
    section = cast("dict[str, Any]", decoder)
    if section.get("type") == "Sequence":
        parts = cast("list[Any]", section.get("decoders") or [])
        return len(parts) == 1 and is_byte_level(parts[0])
    return section.get("type") == "ByteLevel"
