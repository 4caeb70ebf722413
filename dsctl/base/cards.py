"""What the driver says about graphics cards: each reading is a value or Missing with the driver's reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsctl.base.missing import Missing

Reading = int | float | str | list[tuple[int, int]] | Missing
UNSUPPORTED = "not supported by this card or driver"
RECOVERY = {
    1: "reset the GPU", 2: "reboot the host", 3: "drain peer-to-peer traffic", 4: "drain and reset the GPU",
    5: "recover IMEX", 6: "reset the bus", 7: "reboot the system",
}  # fmt: skip
SLOWED = {0x08: "hardware slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake"}


@dataclass(frozen=True, slots=True)
class Card:
    """One card: its readings by name."""

    index: int
    name: str
    bus: str
    readings: dict[str, Reading] = field(default_factory=lambda: dict[str, Reading]())

    def number(self, name: str) -> float | None:
        """A numeric reading, or None."""
        value = self.readings.get(name)
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True)
class Cards:
    """All cards, or the driver's refusal: `problem` is mismatch, not loaded, lost, hung, or empty."""

    cards: tuple[Card, ...] = ()
    problem: str = ""
    words: str = ""


def slow_reasons(mask: int) -> list[str]:
    """The reasons in a clock-event mask that mean trouble."""
    return [text for bit, text in SLOWED.items() if mask & bit]
