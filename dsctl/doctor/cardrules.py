"""Judges cards over links, fabric, clocks, retired pages and counters; the rules about NCCL's live state and PCIe bridges too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from dsctl.base.cards import Card, Cards
from dsctl.doctor.model import Case

GIB = 1 << 30
MOST_SKEW_S = 1.0
Seen = tuple[str, dict[str, object]]
Judge = Callable[[Case], Iterator[Seen]]
FABRIC_DONE = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
FABRIC_WORDS = {1: "not started", 2: "in progress"}
SETTING = 0x2  # clock event: an application or locked clock holds the card back
PAGES_SOFT, PAGES_HARD = 15, 63  # retired pages: watch, replace (DCGM's limits)


def _cards(case: Case) -> tuple[Card, ...]:
    return cast("Cards", case.facts["gpu"]).cards


def _fabric(case: Case) -> Iterator[Seen]:
    for card in _cards(case):
        state = card.number("fabric")
        if state is not None and int(state) != FABRIC_DONE:
            words = FABRIC_WORDS.get(int(state), f"state {state:g}")
            yield f"{card.name} {card.bus}: fabric {words}", {"gpu": card.index, "state": words}


def _links(case: Case) -> Iterator[Seen]:
    """Some links of a card down while others of it are up, or all down while the same model beside it has its up."""
    up_of_model = {card.name for card in _cards(case) if any(up for _, up in _pairs(card, "nvlinks"))}
    for card in _cards(case):
        links = _pairs(card, "nvlinks")
        down = [link for link, up in links if not up]
        if down and card.name in up_of_model:
            names = ", ".join(map(str, down))
            yield f"{card.name} {card.bus}: links {names} of {len(links)} down", {"gpu": card.index, "links": names}


def _pairs(card: Card, name: str) -> list[tuple[int, int]]:
    value = card.readings.get(name)
    return value if isinstance(value, list) else []


def _clock(case: Case) -> Iterator[Seen]:
    for card in _cards(case):
        mask, now, usual = card.number("clocks"), card.number("app_clock"), card.number("app_clock_default")
        if mask is not None and int(mask) & SETTING and now and usual and now < usual:
            yield (
                f"{card.name} {card.bus}: application clock {now:g} MHz, default {usual:g}",
                {"gpu": card.index, "now": f"{now:g}", "default": f"{usual:g}"},
            )


def _pages(case: Case) -> Iterator[Seen]:
    for card in _cards(case):
        count, pending = card.number("retired") or 0, card.number("retired_pending")
        if count >= PAGES_SOFT or pending:
            yield (
                f"{card.name} {card.bus}: {count:g} retired pages, pending {pending or 0:g}",
                {"gpu": card.index, "n": f"{count:g}", "severity": "critical" if count >= PAGES_HARD else "warning"},
            )


def _reserved(case: Case) -> Iterator[Seen]:
    for card in _cards(case):
        held = card.number("reserved")
        if held is not None and held > GIB:
            yield (
                f"{card.name} {card.bus}: {held:g} bytes reserved",
                {"gpu": card.index, "held": f"{held / GIB:.1f} GiB"},
            )


def _rate(name: str, most_per_minute: float) -> Judge:
    """More than so many a minute between two looks."""

    def judge(case: Case) -> Iterator[Seen]:
        first, second, seconds = cast("tuple[Cards, Cards, float]", case.facts["two samples"])
        before = {card.bus: card.number(name) for card in first.cards}
        for card in second.cards:
            now, then = card.number(name), before.get(card.bus)
            if now is None or then is None or now < then or seconds <= 0:  # a counter that was reset says nothing
                continue
            rate = (now - then) * 60 / seconds
            if rate > most_per_minute:
                yield (
                    f"{card.name} {card.bus}: {name} {then:g} → {now:g} in {seconds:.0f} s",
                    {"gpu": card.index, "rate": f"{rate:.0f}"},
                )

    return judge


def _links_rate(case: Case) -> Iterator[Seen]:
    yield from _rate("nvlink_replays", 0)(case)
    yield from _rate("nvlink_crc", 100 * 60)(case)


def _container(case: Case) -> Iterator[Seen]:
    found = cast("dict[str, str]", case.facts["container"])
    visible = found.get("NVIDIA_VISIBLE_DEVICES")
    able = set(found.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")) - {""}
    if visible in ("void", "none", ""):
        yield (
            f"NVIDIA_VISIBLE_DEVICES={visible}",
            {"what": f"NVIDIA_VISIBLE_DEVICES is {visible or 'empty'}: no card is passed in"},
        )
    elif able and "all" not in able and not {"compute", "utility"} <= able:
        lacking = ", ".join(sorted({"compute", "utility"} - able))
        yield (
            f"NVIDIA_DRIVER_CAPABILITIES={','.join(sorted(able))}",
            {"what": f"the driver's capabilities lack {lacking}"},
        )


def _acs(case: Case) -> Iterator[Seen]:
    bridges = cast("list[str]", case.facts["acs"])
    if bridges:
        yield f"ACS source validation on {', '.join(bridges[:8])}", {"names": ", ".join(bridges[:8]), "n": len(bridges)}


def _iommu(case: Case) -> Iterator[Seen]:
    (line,) = cast("list[str]", case.facts["iommu"])
    words = line.split()
    if {"intel_iommu=on", "amd_iommu=on"} & set(words) and "iommu=pt" not in words:
        yield f"/proc/cmdline: {line[:200]}", {}


def _ras(case: Case) -> Iterator[Seen]:
    """Dead ranks in the last answer; ranks whose counts differ from the others' and did not move between two answers."""
    first, second = cast("tuple[dict[str, Any], dict[str, Any]]", case.facts["ras"])
    before = {str(comm.get("hash")): comm for comm in _comms(first)}
    for comm in _comms(second):
        gone = [rank for rank in cast("list[dict[str, Any]]", comm.get("missing_ranks") or [])]
        if gone:
            names = ", ".join(_who(rank) for rank in gone[:8])
            yield (
                f"communicator {comm.get('hash')}: missing {names}",
                {"names": names, "what": "does not answer" if len(gone) == 1 else "do not answer"},
            )
            continue
        counts, then = _counts(comm), _counts(before.get(str(comm.get("hash")), {}))
        if len(set(counts.values())) > 1 and counts == then:
            least = min(counts.values())
            behind = [rank for rank in _ranks(comm) if counts[int(rank.get("rank", -1))] == least]
            names = ", ".join(_who(rank) for rank in behind[:8])
            yield (
                f"communicator {comm.get('hash')}: counts {sorted(set(counts.values()))} stand still",
                {"names": names, "what": f"{'is' if len(behind) == 1 else 'are'} behind the others, and nothing moves"},
            )


def jobs(answer: dict[str, Any]) -> set[str]:
    """The communicators that an answer of NCCL's RAS server is about."""
    return {str(comm.get("hash")) for comm in _comms(answer)}


def _comms(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found = answer.get("communicators")
    return [c for c in cast("list[Any]", found) if isinstance(c, dict)] if isinstance(found, list) else []


def _ranks(comm: dict[str, Any]) -> list[dict[str, Any]]:
    found = comm.get("ranks")
    return [r for r in cast("list[Any]", found) if isinstance(r, dict)] if isinstance(found, list) else []


def _counts(comm: dict[str, Any]) -> dict[int, int]:
    """rank → collectives it has called."""
    return {int(rank.get("rank", -1)): _total(rank.get("collective_counts")) for rank in _ranks(comm)}


def _total(value: object) -> int:
    if isinstance(value, dict):
        return sum(_total(inner) for inner in cast("dict[str, object]", value).values())
    return value if isinstance(value, int) else 0


def _who(rank: dict[str, Any]) -> str:
    where = f" on {rank['host']}" if rank.get("host") else ""
    pid = f" (pid {rank['pid']})" if rank.get("pid") else ""
    return f"rank {rank.get('rank', '?')}{where}{pid}"


def _drift(case: Case) -> Iterator[Seen]:
    """For every kind of version that not all hosts share: the values, and the hosts in the minority."""
    hosts = cast("dict[str, dict[str, str]]", case.facts["several hosts"])
    for what in sorted({name for versions in hosts.values() for name in versions}):
        by_value: dict[str, list[str]] = {}
        for host, versions in sorted(hosts.items()):
            if what in versions:
                by_value.setdefault(versions[what], []).append(host)
        if len(by_value) > 1:
            most = max(by_value, key=lambda value: (len(by_value[value]), value))
            values = "; ".join(f"{value} on {', '.join(names)}" for value, names in sorted(by_value.items()))
            odd = ", ".join(name for value, names in by_value.items() if value != most for name in names)
            yield f"{what}: {values}", {"what": what, "values": values, "odd": odd}


def _clocks(case: Case) -> Iterator[Seen]:
    skews = cast("dict[str, float]", case.facts["clocks of hosts"])
    far = {host: skew for host, skew in sorted(skews.items()) if abs(skew) > MOST_SKEW_S}
    if far:
        names = ", ".join(f"{host} by {skew:+.1f} s" for host, skew in far.items())
        yield names, {"names": names}


JUDGES: dict[str, Judge] = {
    "CLUSTER-DRIFT": _drift, "CLOCK-OFFSET": _clocks,
    "FABRIC": _fabric, "NVL-DOWN": _links, "CLOCK-LOCK": _clock, "PAGES": _pages, "MEM-RESERVED": _reserved, "CT-VIS": _container,
    "ACS": _acs, "IOMMU": _iommu, "ECC-SBE-RATE": _rate("ecc_corrected", 10), "PCIE-REPLAY": _rate("pcie_replays", 8),
    "NVL-ERR": _links_rate, "NCCL-RAS-MISSING": _ras,
}  # fmt: skip
