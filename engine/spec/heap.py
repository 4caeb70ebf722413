"""Gives memory that was freed back to the system, which C libraries else keep for the next who asks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def trim() -> None:
    """Whole free pages of the heap go; a no-op where the C library cannot do it. A few milliseconds."""
    give_back = _malloc_trim()
    if give_back is not None:
        give_back(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes = [ctypes.c_size_t]
    return found
