"""The answer of a question that has none, with the reason; never None, never -1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that was looked for and is not there."""

    reason: str

    def __bool__(self) -> bool:
        return False
