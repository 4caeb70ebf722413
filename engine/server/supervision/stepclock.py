"""Learns how long a step of a given size takes, to tell a long step from one that never ends."""

from __future__ import annotations

SHORTEST_LIMIT_S = 2.0
UNKNOWN_LIMIT_S = 30.0  # nothing seen yet: the first step may also warm caches up
FACTOR = 10.0


class StepClock:
    """Longest time seen per size class (powers of two of rows); kept over cores, which run the same model here."""

    def __init__(self) -> None:
        self._longest: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        size = max(rows, 1).bit_length()
        self._longest[size] = max(self._longest.get(size, 0.0), seconds)

    def limit_s(self, rows: int) -> float:
        """Most a step of up to `rows` rows may take: 10 × the longest seen, scaled up for sizes not seen yet."""
        size = max(rows, 1).bit_length()
        known = [(seen, longest) for seen, longest in self._longest.items() if seen <= size]
        if not known:
            return UNKNOWN_LIMIT_S
        largest = max(seen for seen, _ in known)
        expected = max(longest for _, longest in known) * 2 ** (size - largest)
        return max(SHORTEST_LIMIT_S, FACTOR * expected)
