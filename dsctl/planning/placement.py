"""Where copies go: every host's free slots, or the reasons why it has none, and a choice among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dsctl.base.missing import Missing
from dsctl.base.units import size
from dsctl.facts.host import Gpu, HostFacts
from dsctl.planning.fleetseen import Seen
from dsctl.planning.fleetwish import FleetWish, device_of

MIN_FREE = 1 << 30  # bytes of the state directory's disk below which nothing is started
RESERVED_MEMORY = 1 << 30  # bytes left to the host itself
MAX_SKEW_S = 300.0
SMALL_COPY = 256 << 20  # bytes a copy takes when nothing is known about it


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one copy on one host: the cards it would get, none where the processor computes."""

    host: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """What one host offers: its free slots in order, or why there are none; and how many copies of ours it has."""

    host: str
    free: tuple[Slot, ...]
    reasons: tuple[str, ...] = ()
    copies: int = 0


Filter = Callable[[FleetWish, HostFacts, Seen], str | None]


def rooms(wish: FleetWish, seen: Seen, copy_bytes: int = 0, *, without: frozenset[str] = frozenset()) -> list[Room]:
    """Every wished host in order. `copy_bytes`: memory of one copy; `without`: copies that count as gone."""
    counts: dict[str, int] = {}
    for found in seen.copies.values():
        if found.name not in without:
            counts[found.host] = counts.get(found.host, 0) + 1
    return [_room(wish, seen, host, copy_bytes, counts.get(host, 0), without) for host in wish.hosts]


class Pool:
    """Free slots, taken one copy at a time and given back: where fewest copies are (spread), or host by host (pack)."""

    def __init__(self, offered: Sequence[Room], spread: str) -> None:
        self._spread = spread == "host"
        self._order = {room.host: order for order, room in enumerate(offered)}
        self._free = {room.host: list(reversed(room.free)) for room in offered}
        self._copies = {room.host: room.copies for room in offered}
        self._heap = [self._key(room.host) for room in offered if room.free]
        heapify(self._heap)

    def take(self, nodes: int = 1) -> tuple[Slot, ...]:
        """Slots on `nodes` different hosts; empty when there is no room."""
        hosts: list[str] = []
        while self._heap and len(hosts) < nodes:
            key = heappop(self._heap)
            host = key[2]
            if self._free[host] and key == self._key(host) and host not in hosts:
                hosts.append(host)
        if len(hosts) < nodes:
            for host in hosts:
                heappush(self._heap, self._key(host))
            return ()
        taken = tuple(self._free[host].pop() for host in hosts)
        for host in hosts:
            self._copies[host] += 1
            heappush(self._heap, self._key(host))
        return taken

    def give(self, slot: Slot) -> None:
        """A copy has gone; its slot is the host's next one. A host that takes no copies stays that way."""
        if slot.host in self._free:
            self._free[slot.host].append(slot)
            self._copies[slot.host] -= 1
            heappush(self._heap, self._key(slot.host))

    @property
    def free(self) -> int:
        """Slots that are left."""
        return sum(len(slots) for slots in self._free.values())

    def _key(self, host: str) -> tuple[int, int, str]:
        return (self._copies[host] if self._spread else 0, self._order[host], host)


def _room(
    wish: FleetWish, seen: Seen, host: str, copy_bytes: int, copies: int, without: frozenset[str]
) -> Room:  # fmt: skip
    facts = seen.fleet.get(host, Missing("it was not asked"))
    if isinstance(facts, Missing):
        return Room(host, (), (f"cannot be reached: {facts.reason}",), copies)
    reasons = [reason for each in FILTERS if (reason := each(wish, facts, seen)) is not None]
    if reasons:
        return Room(host, (), tuple(reasons), copies)
    slots, why = _slots(wish, facts, copy_bytes, copies, without)
    if wish.max_per_host:
        room = max(0, wish.max_per_host - copies)
        why = [*why, f"holds {copies} copies, placement.max_per_host is {wish.max_per_host}"] if not room else why
        slots = slots[:room]
    return Room(host, tuple(slots), () if slots else tuple(why), copies)


def _slots(
    wish: FleetWish, facts: HostFacts, copy_bytes: int, copies: int, without: frozenset[str]
) -> tuple[list[Slot], list[str]]:
    if device_of(wish, facts) == "cuda":
        return _card_slots(wish, facts, without)
    available = facts.available if isinstance(facts.available, int) else 0
    each = copy_bytes or SMALL_COPY
    by_memory = max(0, available - RESERVED_MEMORY) // each
    by_cores = max(0, (facts.cores if isinstance(facts.cores, int) else 1) - copies)
    count = min(by_memory, max(by_cores, wish.max_per_host - copies))
    why = [f"{size(available)} of memory are free, a copy takes {size(each)}"] if not by_memory else []
    return [Slot(facts.name)] * count, why or [f"{copies} copies take its {facts.cores} cores"]


def _card_slots(wish: FleetWish, facts: HostFacts, without: frozenset[str]) -> tuple[list[Slot], list[str]]:
    if isinstance(facts.gpus, Missing):
        return [], [f"its graphics cards cannot be seen: {facts.gpus.reason}"]
    claimed: set[str] = set()
    for container in () if isinstance(facts.containers, Missing) else facts.containers:
        is_gone = container.label("project") == wish.project and container.label("replica") in without
        if not is_gone:
            claimed |= set(container.label("gpus").split(","))
    free: list[Gpu] = []
    busy: list[str] = []
    for card in sorted(facts.gpus, key=lambda each: each.index):
        if card.is_mig:
            busy.append(f"card {card.index} is split into MIG instances")
        elif card.uuid in claimed:
            busy.append(f"card {card.index} is taken by a copy")
        elif card.pids:
            busy.append(f"card {card.index} is used by process {card.pids[0]}, which is not ours")
        else:
            free.append(card)
    groups = [free[n : n + wish.gpus] for n in range(0, len(free) - wish.gpus + 1, wish.gpus)]
    slots = [Slot(facts.name, tuple(card.uuid for card in group)) for group in groups]
    short = f"{len(free)} of {len(facts.gpus)} cards are free, a copy takes {wish.gpus}"
    return slots, [short, *busy]


# filters: why a host takes no new copy at all


def _is_cordoned(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    text = seen.file(facts.name, "cordon")
    return None if isinstance(text, Missing) else f"it is cordoned: {text.strip() or 'no reason given'}"


def _has_no_docker(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    return f"Docker cannot be used: {facts.docker.reason}" if isinstance(facts.docker, Missing) else None


def _has_unknown_containers(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    if isinstance(facts.containers, Missing):
        return f"its containers cannot be listed: {facts.containers.reason}"
    return None


def _has_no_address(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    if isinstance(facts.address, Missing):
        return f"it has no address other hosts reach: {facts.address.reason}"
    return None


def _has_no_disk(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    for what, disk in facts.disks.items():
        if isinstance(disk, Missing):
            continue
        if disk.is_read_only and what != "weights":
            return f"{disk.path} is read-only"
        if disk.free < MIN_FREE and what != "weights":
            return f"{size(disk.free)} are free in {disk.path}, at least {size(MIN_FREE)} are wanted"
    return None


def _has_wrong_clock(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    if isinstance(facts.skew, Missing) or abs(facts.skew) <= MAX_SKEW_S:
        return None
    return f"its clock is {facts.skew:+.0f} s off; at most {MAX_SKEW_S:.0f} s are allowed"


def _has_no_cards(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    if wish.device != "cuda":
        return None
    if isinstance(facts.gpus, Missing):
        return f"its graphics cards cannot be seen: {facts.gpus.reason}"
    return None if facts.gpus else "it has no graphics card, and engine.device is cuda"


def _has_no_toolkit(wish: FleetWish, facts: HostFacts, seen: Seen) -> str | None:
    if device_of(wish, facts) != "cuda" or isinstance(facts.docker, Missing):
        return None
    if isinstance(facts.driver, Missing):
        return f"the driver does not answer: {facts.driver.reason}"
    has_toolkit = "nvidia" in facts.docker.runtimes or not isinstance(facts.driver.toolkit, Missing)
    return None if has_toolkit else "Docker has no NVIDIA runtime: install nvidia-container-toolkit"


FILTERS: tuple[Filter, ...] = (
    _is_cordoned, _has_no_docker, _has_unknown_containers, _has_no_address, _has_no_disk, _has_wrong_clock,
    _has_no_cards, _has_no_toolkit,
)  # fmt: skip


def explain(offered: Sequence[Room]) -> list[str]:
    """One line a host that has no room, with its reasons."""
    return [f"{room.host}: {'; '.join(room.reasons)}" for room in offered if room.reasons]
