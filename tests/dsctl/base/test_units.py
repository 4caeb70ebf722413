"""Durations and sizes read like a person would say them."""

from __future__ import annotations

from dsctl.base.units import seconds, size


def test_seconds() -> None:
    """Tenths below ten seconds, then seconds, minutes, hours."""
    assert [seconds(v) for v in (0.42, 12.4, 185, 7800)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 10 min"]


def test_size() -> None:
    """Binary units with one decimal."""
    assert [size(v) for v in (512, 3.2 * 2**20, 2**40)] == ["512 B", "3.2 MiB", "1.0 TiB"]
