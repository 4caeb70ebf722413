"""Who sends weights to whom: a tree that doubles every round, what has room for them, and how long it takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsctl.base.fleetstep import Cargo, FleetStep, SpreadWeights, Transfer
from dsctl.base.units import size
from dsctl.facts.weights import Held

HERE = ""  # the operator's machine, which sends once and then lets the hosts do it
DEFAULT_RATE = 100e6  # bytes a second of one transfer where none is remembered: a gigabit line
RESERVE = 64 << 20
Pair = tuple[str, str]


def rounds(holders: Sequence[str], wanting: Sequence[str]) -> list[list[Pair]]:
    """(sender, receiver) by round: everybody who has them sends to one other, so that holders double.

    The operator's machine sends only while no host has them.
    """
    have, left = list(holders), list(wanting)
    found: list[list[Pair]] = []
    while left:
        senders = [each for each in have if each != HERE] or have[:1]
        if not senders:
            raise ValueError("nobody has them")
        now = list(zip(senders, left, strict=False))
        left = left[len(now) :]
        have += [receiver for _, receiver in now]
        found.append(now)
    return found


def missing(total: int, held: Held) -> int:
    """Bytes that still have to come to a host, if what is there is right."""
    return 0 if held.root else max(0, total - held.present)


def ordered(wanting: Sequence[str], held: Mapping[str, Held], total: int) -> list[str]:
    """Those that miss least first: they can send soonest."""
    return sorted(wanting, key=lambda host: missing(total, held[host]))


def lacking(wanting: Sequence[str], held: Mapping[str, Held], total: int) -> dict[str, str]:
    """Hosts on which there is no room, with the numbers."""
    found: dict[str, str] = {}
    for host in wanting:
        need = max(0, total - held[host].present)
        reserve = min(RESERVE, need // 20)
        if need + reserve > held[host].free:
            found[host] = f"{size(need)} more are needed, {size(held[host].free)} are free"
    return found


def spread_steps(
    cargo: Cargo, sources: Mapping[str, tuple[str, str]], wanting: Sequence[str], addresses: Mapping[str, str]
) -> list[FleetStep]:
    """One step a round. `sources`: who has them already → (directory there, address); HERE is one of them or not."""
    places = dict(sources)
    steps: list[FleetStep] = []
    for number, pairs in enumerate(rounds(list(sources), wanting), 1):
        transfers = tuple(Transfer(a, b, *places[a]) for a, b in pairs)
        used = {a for a, _ in pairs}
        spares = tuple(Transfer(a, "", *place) for a, place in places.items() if a not in used)
        told = ", ".join(f"{a or 'this machine'} → {b}" for a, b in pairs)
        title = f"bring {size(cargo.size)} of weights to {cargo.directory}, round {number}: {told}"
        steps.append(FleetStep(pairs[0][1], title, SpreadWeights(cargo, transfers, spares)))
        places |= {b: (cargo.directory, addresses[b]) for _, b in pairs}
    return steps


def duration(action: SpreadWeights, usual_rate: float = 0.0) -> float:
    """Seconds of one round: all transfers at once, at the cap or the rate that was usual."""
    rate = usual_rate or DEFAULT_RATE
    rate = min(rate, action.cargo.rate) if action.cargo.rate else rate
    return action.cargo.size / rate
