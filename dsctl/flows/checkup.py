"""Looks at this machine for `dsctl doctor`: every fact, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import replace

from dsctl.base.cards import UNSUPPORTED, Card, Cards
from dsctl.base.missing import Missing
from dsctl.doctor.model import Case
from dsctl.doctor.serving import number
from dsctl.reach import cards, vitals

DAY_S = 86400.0
NO_CARD = "no NVIDIA card on the bus"


def look(case: Case) -> list[str]:
    """Adds the facts of this machine to the case; returns what was looked at."""
    case.facts["environment"] = vitals.environment()
    case.facts["cores"] = vitals.cores()
    case.facts["limits"] = vitals.limits()
    case.facts["disks"] = vitals.disks()
    case.facts["alive"] = vitals.alive
    _small_files(case)
    compiler = vitals.program(("cc", "gcc", "clang"))
    case.facts["compiler"] = ("", compiler.reason) if isinstance(compiler, Missing) else (compiler, "")
    case.facts["memlock"] = vitals.limits()["memlock"] if vitals.has_infiniband() else "no RDMA device here"
    _port(case)
    _graphics(case)
    case.missing |= {
        "two samples": "rates need two samples, and one was taken",
        "ras": "the RAS query of a running job is not part of this version",
        "several hosts": "one machine was looked at",
    }
    return ["this machine (/proc, limits, disks, environment, cards)"]


def _small_files(case: Case) -> None:
    memory = vitals.file("/proc/meminfo")
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", str(memory), re.MULTILINE))
    if "MemTotal" in sizes and "MemAvailable" in sizes:
        case.facts["memory"] = (int(sizes["MemTotal"]) * 1024, int(sizes["MemAvailable"]) * 1024)
    else:
        case.missing["memory"] = "/proc/meminfo could not be read"
    flags = re.search(r"^flags\s*: (.*)$", str(vitals.file("/proc/cpuinfo")), re.MULTILINE)
    if flags:
        case.facts["cpu"] = frozenset(flags[1].split())
    else:
        case.facts["cpu"] = "not an x86 processor, or /proc/cpuinfo does not tell"
    for name, path in (
        ("thp", "/sys/kernel/mm/transparent_hugepage/enabled"),
        ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ):
        text = vitals.file(path)
        if isinstance(text, Missing):
            case.missing[name] = text.reason
        else:
            case.facts[name] = [text.strip()]
    handles = str(vitals.file("/proc/sys/fs/file-nr")).split()
    if len(handles) == 3 and handles[2].isdigit():
        case.facts["files"] = (int(handles[0]), int(handles[2]))
    else:
        case.missing["files"] = "/proc/sys/fs/file-nr could not be read"


def _port(case: Case) -> None:
    port = number(case.settings, "port")
    if not port:
        case.facts["port"] = "no port is configured"
        return
    rows = [
        line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6") for line in str(vitals.file(path)).splitlines()[1:]
    ]
    listening = frozenset(int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A")
    case.facts["port"] = (int(port), listening)


def _graphics(case: Case) -> None:
    """Cards: none on the bus is not a fault; a driver that does not answer is."""
    bus = vitals.pci_cards()
    names = (
        "recovery",
        "ecc",
        "rows_pending",
        "rows_failed",
        "clocks",
        "temperature",
        "power_limit",
        "persistence",
        "pcie_width",
        "pcie_gen",
        "processes",
    )
    every = ("gpu", "shm", *(f"gpu.{name}" for name in names))
    if not isinstance(bus, Missing) and not bus:
        case.facts |= dict.fromkeys(every, NO_CARD)
        return
    found = cards.look()
    if isinstance(found, Missing):
        case.missing |= dict.fromkeys(every, found.reason)
        return
    if isinstance(bus, Missing) and found.problem == "not loaded":
        case.facts |= dict.fromkeys(every, "no NVIDIA driver, and the bus cannot be seen")
        return
    if str(vitals.file("/proc/1/comm")).strip() not in ("systemd", "init"):
        found = Cards(tuple(_without_processes(card) for card in found.cards), found.problem, found.words)
    case.facts["gpu"] = found
    case.facts["gpu on the bus"] = 0 if isinstance(bus, Missing) else len(bus)
    _shared_memory(case, found)
    for name in names:
        answers = [card.readings.get(name) for card in found.cards]
        missing = [answer for answer in answers if isinstance(answer, Missing)]
        if not answers or (len(missing) == len(answers) and any(m.reason != UNSUPPORTED for m in missing)):
            case.missing[f"gpu.{name}"] = missing[0].reason if missing else found.words or "the driver shows no card"
        else:
            case.facts[f"gpu.{name}"] = UNSUPPORTED if len(missing) == len(answers) else answers


def _without_processes(card: Card) -> Card:
    """Inside a container the driver names processes that cannot be seen from here."""
    return replace(
        card, readings={**card.readings, "processes": Missing("processes of other containers cannot be seen from here")}
    )


def _shared_memory(case: Case, found: Cards) -> None:
    space = vitals.space("/dev/shm")  # noqa: S108 - a place to look at
    if len(found.cards) < 2:
        case.facts["shm"] = "fewer than two cards"
    elif isinstance(space, Missing):
        case.missing["shm"] = space.reason
    else:
        case.facts["shm"] = space[0]


def kernel_log(since_s: float | None = None) -> str | Missing:
    """The kernel's log of the last day, or of the last `since_s` seconds."""
    return vitals.kernel_log(DAY_S if since_s is None else since_s)
