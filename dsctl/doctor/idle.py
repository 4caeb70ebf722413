"""Which cards may be tested now: none while requests run, and only those that are idle and have room."""

from __future__ import annotations

from dataclasses import dataclass

from dsctl.base.cards import Card, Cards

GIB = 1 << 30
ROOM = 2 * GIB  # bytes that must be free before a test takes some
BUSY_PERCENT = 5
ANYWAY = "--disruptive tests it all the same"


@dataclass(frozen=True, slots=True)
class Choice:
    """The numbers of the cards to test, and why the others are left alone."""

    tested: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...] = ()

    @property
    def why(self) -> str:
        """The reasons as one sentence; empty when no card is left out."""
        return "; ".join(f"card {index}: {reason}" for index, reason in self.skipped)


def choose(cards: Cards, inflight: int, *, disruptive: bool = False) -> Choice:
    """Picks the cards. `inflight`: requests that run on this machine's deployment now."""
    reasons = {card.index: "" if disruptive else _reason(card, inflight) for card in cards.cards}
    tested = tuple(index for index, reason in reasons.items() if not reason)
    return Choice(tested, tuple((index, reason) for index, reason in reasons.items() if reason))


def _reason(card: Card, inflight: int) -> str:
    """Why a card is left alone; what the driver does not tell counts as in use."""
    if inflight:
        return f"{inflight} request{'' if inflight == 1 else 's'} in flight ({ANYWAY})"
    busy, free = card.number("utilisation"), card.number("free")
    if busy is None or free is None:
        return f"the driver does not tell whether it is in use ({ANYWAY})"
    if busy > BUSY_PERCENT:
        return f"it is {busy:g} % busy ({ANYWAY})"
    return f"{free / GIB:.1f} GiB are free, 2 GiB are needed ({ANYWAY})" if free < ROOM else ""
