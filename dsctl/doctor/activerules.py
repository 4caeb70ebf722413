"""Judges what active tests measured, network ports as the kernel shows them, and certificates of the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from dsctl.base.ports import Port
from dsctl.doctor.model import Case

Seen = tuple[str, dict[str, object]]
Judge = Callable[[Case], Iterator[Seen]]
SLOW_MEMORY = 2e9  # bytes a second
SLOW_DISK = 100e6
SLOW_NETWORK = 100e6
DAY_S = 86400.0
SOON_S = 21 * DAY_S
MANY_ERRORS = 1000
STARTING = ("INIT", "ARMED")
# GB/s of the memory as its maker states it, by a part of the card's name, the more exact names first.
SPEED = (
    ("B200", 8000), ("H200", 4800), ("H100 PCIe", 2000), ("H100 NVL", 3900), ("H100", 3350), ("H800", 3350), ("H20", 4000),
    ("A100-SXM4-40", 1555), ("A100-PCIE-40", 1555), ("A100", 1935), ("A800", 1935), ("L40", 864), ("A40", 696), ("L4", 300),
    ("A30", 933), ("A10", 600), ("V100", 900), ("T4", 320), ("RTX 4090", 1008), ("RTX 3090", 936),
)  # fmt: skip


def _memory(case: Case) -> Iterator[Seen]:
    (rate,) = cast("list[float]", case.facts["deep.memory"])
    if rate < SLOW_MEMORY:
        yield f"{rate:.0f} bytes a second read and written", {"rate": f"{rate / 1e9:.2f}"}


def _disk(case: Case) -> Iterator[Seen]:
    rate, path = cast("tuple[float, str]", case.facts["deep.disk"])
    if rate < SLOW_DISK:
        yield f"{rate:.0f} bytes a second written to {path}", {"rate": f"{rate / 1e6:.0f}", "path": path}


def _test(name: str) -> Judge:
    def judge(case: Case) -> Iterator[Seen]:
        is_right, words = cast("tuple[bool, str]", case.facts[name])
        if not is_right:
            yield words, {"words": words}

    return judge


def _card_memory(case: Case) -> Iterator[Seen]:
    """Half of what the model's memory can do, or 0.7 of what the same model beside it does, is too slow."""
    found = cast("list[tuple[int, str, float]]", case.facts["deep.gpu"])
    for index, name, rate in found:
        stated = next((speed for part, speed in SPEED if part in name), None)
        best = max(other for _, model, other in found if model == name)
        words: dict[str, object] = {"gpu": index, "rate": f"{rate / 1e9:.0f}"}
        if stated and rate < 0.5e9 * stated:
            yield f"{name}: {rate:.0f} bytes a second", words | {"usual": f"{stated} GB/s are stated for {name}"}
        elif rate < 0.7 * best:
            yield f"{name}: {rate:.0f} bytes a second", words | {"usual": f"the same model beside it {best / 1e9:.0f}"}


def _network(case: Case) -> Iterator[Seen]:
    for start, end, rate, why in cast("list[tuple[str, str, float, str]]", case.facts["deep.network"]):
        if why:
            words = f"{end} cannot take data from {start}: {why}"
            yield words, {"words": words, "severity": "critical"}
        elif rate < SLOW_NETWORK:
            words = f"{start} → {end}: {rate / 1e6:.1f} MB/s, less than one gigabit a second carries"
            yield words, {"words": words}


def _ports(case: Case, name: str = "links") -> list[Port]:
    return cast("list[Port]", case.facts[name])


def _state(case: Case) -> Iterator[Seen]:
    """Ports without a cable are none of our business; one that has a link and does not work is."""
    for port in _ports(case):
        if port.kind == "infiniband" and port.state in STARTING:
            words = f"{port.name} is {port.state}: it has a link, and no subnet manager made it active"
            yield f"{port.name}: {port.state}", {"words": words}
        elif port.kind == "infiniband" and port.state == "ACTIVE" and port.width == 1:
            yield (
                f"{port.name}: {port.rate:g} Gb/s (1X)",
                {"words": f"{port.name} runs on one lane ({port.rate:g} Gb/s)", "severity": "warning"},
            )
        elif port.kind == "ethernet" and port.state == "up" and port.duplex == "half":
            words = f"{port.name} runs half duplex at {port.rate:g} Gb/s"
            yield f"{port.name}: half duplex", {"words": words, "severity": "warning"}


def _errors(case: Case) -> Iterator[Seen]:
    for port in _ports(case):
        bad = {name: count for name, count in port.errors if count > (0 if name == "link_downed" else MANY_ERRORS)}
        if "link_downed" in bad and bad["link_downed"] < 10:
            del bad["link_downed"]  # a switch that was restarted
        if bad:
            words = ", ".join(f"{name} {count}" for name, count in sorted(bad.items()))
            yield f"{port.name}: {words}", {"words": f"{port.name}: {words} since the counters were reset"}


def _differs(case: Case) -> Iterator[Seen]:
    """A port that most hosts have up, or faster: the host where it is not."""
    hosts = cast("dict[str, list[Port]]", case.facts["links of hosts"])
    for name in sorted({port.name for ports in hosts.values() for port in ports}):
        same = {host: port for host, ports in sorted(hosts.items()) for port in ports if port.name == name}
        up = {host: port for host, port in same.items() if port.is_up}
        if 2 * len(up) <= len(same):
            continue
        usual = sorted(port.rate for port in up.values())[len(up) // 2]
        for host, port in same.items():
            if port.state in STARTING:
                continue  # told by itself already
            if not port.is_up:
                words = f"{name} of {host} is {port.state or 'down'}; {len(up)} of {len(same)} hosts have it up"
                yield words, {"words": words, "host": host}
            elif 0 < port.rate < usual:
                words = f"{name} of {host} runs at {port.rate:g} Gb/s, elsewhere at {usual:g}"
                yield words, {"words": words, "host": host, "severity": "warning"}


def _certificates(case: Case) -> Iterator[Seen]:
    for where, seconds, names in cast("list[tuple[str, float, str]]", case.facts["certificates"]):
        days = abs(seconds) / DAY_S
        if seconds <= 0:
            words = f"The certificate of {where} ({names}) ended {days:.0f} days ago: clients refuse it"
            yield f"{where}: ended", {"words": words, "severity": "critical"}
        elif seconds < SOON_S:
            words = f"The certificate of {where} ({names}) ends in {days:.1f} days"
            severity = "critical" if seconds < 3 * DAY_S else "warning"
            yield f"{where}: {days:.1f} days", {"words": words, "severity": severity}


JUDGES: dict[str, Judge] = {
    "DEEP-MEMORY": _memory, "DEEP-DISK": _disk, "DEEP-KERNELS": _test("deep.kernels"), "DEEP-FRONT": _test("deep.front"),
    "DEEP-GLOO": _test("deep.gloo"), "DEEP-NCCL": _test("deep.nccl"), "DEEP-GPU-MEMORY": _card_memory,
    "DEEP-NETWORK": _network, "LINK-STATE": _state, "LINK-DIFFERS": _differs, "LINK-ERRORS": _errors,
    "TLS-EXPIRY": _certificates,
}  # fmt: skip
