"""Looks at this machine for `dsctl doctor`: every fact, or the reason why there is none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from dsctl.base.cards import UNSUPPORTED, Card, Cards
from dsctl.base.missing import Missing
from dsctl.doctor.model import Case
from dsctl.doctor.serving import number
from dsctl.facts import links, survey
from dsctl.reach import cards, certificates, ras, vitals

DAY_S = 86400.0
RAS_PAUSE_S = 10.0
NO_CARD = "no NVIDIA card on the bus"


def look(case: Case, sample_s: float = 0.0, pause: Callable[[float], None] = time.sleep) -> list[str]:
    """Adds the facts of this machine to the case; returns what was looked at.

    `sample_s`: seconds between two looks at the cards' counters; 0: one look.
    """
    case.facts["environment"] = vitals.environment()
    case.facts["cores"] = vitals.cores()
    case.facts["limits"] = vitals.limits()
    disks = vitals.disks()
    if disks:
        case.facts["disks"] = disks
    else:
        case.missing["disks"] = "no file system told its size"
    case.facts["alive"] = vitals.alive
    _small_files(case)
    compiler = vitals.program(("cc", "gcc", "clang"))
    case.facts["compiler"] = ("", compiler.reason) if isinstance(compiler, Missing) else (compiler, "")
    case.facts["memlock"] = vitals.limits()["memlock"] if vitals.has_infiniband() else "no RDMA device here"
    _port(case)
    _links(case)
    _certificates(case)
    _container(case)
    _graphics(case)
    _bridges(case)
    _twice(case, sample_s, pause)
    _ras(case, pause)
    for name in ("several hosts", "clocks of hosts", "links of hosts"):
        case.missing[name] = "one machine was looked at"
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
    listening = _listening()
    if isinstance(listening, Missing):
        case.missing["port"] = listening.reason
    else:
        case.facts["port"] = (int(port), listening)


def _listening() -> frozenset[int] | Missing:
    """The TCP ports that something listens on here."""
    tables = [text for path in ("/proc/net/tcp", "/proc/net/tcp6") if isinstance(text := vitals.file(path), str)]
    return survey.listening("\n".join(tables)) if tables else Missing("/proc/net/tcp could not be read")


def _links(case: Case) -> None:
    text = vitals.ports()
    found = text if isinstance(text, Missing) else links.read(text)
    if isinstance(found, Missing):
        case.missing["links"] = found.reason
    else:
        case.facts["links"] = found


def _certificates(case: Case) -> None:
    """The certificates that this machine's TLS ports show, the configured one and the usual ones."""
    open_here = _listening()
    if isinstance(open_here, Missing):
        case.missing["certificates"] = open_here.reason
        return
    wanted = {*certificates.USUAL, int(number(case.settings, "port") or 443)} & open_here
    found = certificates.ask("127.0.0.1", wanted) if wanted else "nothing listens on a port that usually has TLS"
    if isinstance(found, Missing):
        case.missing["certificates"] = found.reason
    else:
        case.facts["certificates"] = found


def _is_container() -> bool:
    return str(vitals.file("/proc/1/comm")).strip() not in ("systemd", "init")


def _container(case: Case) -> None:
    """What the image asked the NVIDIA runtime for; outside a container there is nothing to ask."""
    wanted = {name: value for name, value in vitals.environment().items() if name.startswith("NVIDIA_")}
    if not _is_container():
        case.facts["container"] = "not inside a container"
    elif not wanted:
        case.facts["container"] = "no NVIDIA_ variable is set in this container"
    else:
        case.facts["container"] = wanted


def _bridges(case: Case) -> None:
    """PCIe access control above the cards, and the IOMMU's mode: they matter to two cards or more on bare metal."""
    line = vitals.file("/proc/cmdline")
    flags = case.facts.get("cpu")
    few = len(cast("Cards", case.facts["gpu"]).cards) < 2 if isinstance(case.facts.get("gpu"), Cards) else None
    reason = ""
    if isinstance(case.facts.get("gpu"), str):
        reason = str(case.facts["gpu"])
    elif few:
        reason = "fewer than two cards"
    elif isinstance(flags, frozenset) and "hypervisor" in flags:
        reason = "a virtual machine: its host decides"
    if reason:
        case.facts |= {"acs": reason, "iommu": reason}
        return
    bridges = vitals.acs_bridges()
    for name, value in (("acs", bridges), ("iommu", line if isinstance(line, Missing) else [line.strip()])):
        if isinstance(value, Missing):
            case.missing[name] = value.reason
        else:
            case.facts[name] = value


def _twice(case: Case, sample_s: float, pause: Callable[[float], None]) -> None:
    """The counters of the cards a second time."""
    first = case.facts.get("gpu")
    if isinstance(first, str):
        case.facts["two samples"] = first
    elif not isinstance(first, Cards) or first.problem:
        case.missing["two samples"] = "the driver did not show the cards"
    elif sample_s <= 0:
        case.missing["two samples"] = "rates need two looks at the counters (--sample 10s)"
    else:
        pause(sample_s)
        second = cards.look()
        if isinstance(second, Missing):
            case.missing["two samples"] = second.reason
        else:
            case.facts["two samples"] = (first, second, sample_s)


def _ras(case: Case, pause: Callable[[float], None]) -> None:
    """Two answers of NCCL's RAS server, where a job has one: what stands still between them hangs."""
    host, port = _ras_address()
    listening = _listening()
    if isinstance(listening, Missing):
        case.missing["ras"] = listening.reason
    elif host == "127.0.0.1" and port not in listening:
        case.facts["ras"] = f"no NCCL job offers its state here (nothing listens on port {port})"
    else:
        first = ras.ask(host, port)
        if not isinstance(first, Missing):
            pause(RAS_PAUSE_S)
        second = first if isinstance(first, Missing) else ras.ask(host, port)
        if isinstance(first, Missing) or isinstance(second, Missing):
            case.missing["ras"] = (first if isinstance(first, Missing) else cast("Missing", second)).reason
        else:
            case.facts["ras"] = (first, second)


def _ras_address() -> tuple[str, int]:
    """Where NCCL's RAS server is: NCCL_RAS_ADDR, else its own default."""
    host, _, port = vitals.environment().get("NCCL_RAS_ADDR", "").rpartition(":")
    plain = host.strip("[]")
    here = plain in ("", "localhost", "127.0.0.1", "::1")
    return ("127.0.0.1" if here else plain), int(port) if port.isdigit() and len(port) < 6 else ras.PORT


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
        "fabric",
        "nvlinks",
        "app_clock",
        "retired",
        "reserved",
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
    if _is_container():
        found = Cards(tuple(_without_processes(card) for card in found.cards), found.problem, found.words)
    case.facts["gpu"] = found
    case.facts["gpu on the bus"] = 0 if isinstance(bus, Missing) else len(bus)
    _shared_memory(case, found)
    for name in names:
        answers = [card.readings.get(name) for card in found.cards]
        if not answers:
            case.missing[f"gpu.{name}"] = found.words or "the driver shows no card"
            continue
        is_mute = all(isinstance(answer, Missing) for answer in answers)
        if silent := _silent(found.cards, name):
            case.missing[f"gpu.{name}"] = silent
        if not is_mute or not silent:
            case.facts[f"gpu.{name}"] = UNSUPPORTED if is_mute else answers


def _silent(shown: Sequence[Card], name: str) -> str:
    """Which card does not tell a reading though its driver failed, or though its like beside it does; else empty."""
    telling = {card.name for card in shown if not isinstance(card.readings.get(name), Missing)}
    for card in shown:
        answer = card.readings.get(name)
        if isinstance(answer, Missing) and (answer.reason != UNSUPPORTED or card.name in telling):
            return answer.reason if len(shown) == 1 else f"card {card.index}: {answer.reason}"
    return ""


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
