"""What the collector on a host printed → typed facts; every answer that is not there is Missing with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from dsctl.base.missing import Missing
from dsctl.facts.host import NO_FABRIC, Disk, Driver, Gpu, ProjectState

HEAD = re.compile(r"^@@ (.+) (\d+)$")
KIB, MIB = 1 << 10, 1 << 20
NO_NVIDIA = Missing("no NVIDIA driver on this host")


@cache
def collector() -> str:
    """The script that hosts run."""
    return (files("dsctl.facts") / "collector.sh").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Report:
    """The collector's answers by name."""

    answers: Mapping[str, str | Missing]

    def text(self, name: str) -> str | Missing:
        """One answer."""
        return self.answers.get(name, Missing(f"the host was not asked for {name}"))

    def line(self, name: str) -> str | Missing:
        """Its first line; Missing when it is empty."""
        told = self.text(name)
        if isinstance(told, Missing):
            return told
        first = told.strip().partition("\n")[0].strip()
        return first or Missing(f"the host's answer for {name} is empty")

    def number(self, name: str) -> float | Missing:
        """Its first line as a number."""
        told = self.line(name)
        if isinstance(told, Missing):
            return told
        try:
            return float(told.removesuffix(".N").removesuffix("N"))  # a date without nanoseconds prints N
        except ValueError:
            return Missing(f"the host's answer for {name} is no number: {told[:80]!r}")


def parse(text: str) -> Report | Missing:
    """The answers; Missing when the end did not arrive, as half an answer is none."""
    answers: dict[str, str | Missing] = {}
    name, code, lines = "", 0, list[str]()
    for line in text.splitlines():
        found = HEAD.match(line)
        if found is None:
            if line.startswith(" "):
                lines.append(line[1:])
            continue
        if name:
            answers[name] = _answer(name, code, lines)
        name, code, lines = found[1], int(found[2]), []
    if name != "end":
        return Missing("the host's answer broke off" if name else "the host did not answer as expected")
    return Report(answers)


def _answer(name: str, code: int, lines: list[str]) -> str | Missing:
    told = "\n".join(lines)
    if code == 0:
        return told
    if code == 124:
        return Missing(f"{name}: no answer within 20 s")
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
    return Missing(f"{name}: {last}")


def os_name(report: Report) -> str | Missing:
    """The system's own name for itself."""
    told = report.text("os")
    if isinstance(told, Missing):
        return told
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', told, re.MULTILINE)
    return found[1] if found else Missing("no PRETTY_NAME in /etc/os-release")


def memory(report: Report, key: str) -> int | Missing:
    """MemTotal or MemAvailable, in bytes."""
    told = report.text("memory")
    if isinstance(told, Missing):
        return told
    found = re.search(rf"^{key}: *(\d+) kB$", told, re.MULTILINE)
    return int(found[1]) * KIB if found else Missing(f"no {key} in /proc/meminfo")


def ports(report: Report) -> frozenset[int] | Missing:
    """TCP ports somebody listens on, from the kernel's table (ADDRESS:PORT in hexadecimal)."""
    told = report.text("ports")
    if isinstance(told, Missing):
        return told
    return frozenset(int(word.rpartition(":")[2], 16) for word in told.split())


def disk(report: Report, name: str) -> Disk | Missing:
    """The file system behind one of the paths asked for: a line of `df -P -k`, a line of mount options."""
    told = report.text(name)
    if isinstance(told, Missing):
        return told
    line, _, options = told.partition("\n")
    found = re.search(r"\s(\d+)\s+(\d+)\s+(-?\d+)\s+\S+%\s+(/.*)$", line)
    if found is None:
        return Missing(f"df says {line.strip()!r}")
    is_read_only = "ro" in options.strip().split(",")
    return Disk(found[4], int(found[1]) * KIB, max(0, int(found[3])) * KIB, is_read_only)


def address(report: Report, fabric: str, reached: str) -> str | Missing:
    """Where other hosts reach this one: `fabric` (an address, or an interface's name), else where ssh reached it."""
    if not fabric:
        return reached or Missing("ssh does not say at which address it reached the host")
    if re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]*:[0-9a-fA-F:]*", fabric):
        return fabric
    told = report.text("addresses")
    if isinstance(told, Missing):
        return told
    found = re.findall(rf"^\d+: {re.escape(fabric)} +inet6? ([0-9a-fA-F.:]+)/\d+", told, re.MULTILINE)
    plain = [each for each in found if not each.lower().startswith("fe80:")]
    return plain[0] if plain else Missing(f"the host has no address on an interface {fabric!r}")


def driver(report: Report) -> Driver | Missing:
    """The loaded driver and what goes with it."""
    if "driver" not in report.answers:
        return NO_NVIDIA
    version = report.line("driver")
    if isinstance(version, Missing):
        return Missing(f"the NVIDIA driver is not loaded ({version.reason})")
    told = report.text("toolkit")
    found = re.search(r"(\d+\.\d+\.\d+)", told) if isinstance(told, str) else None
    toolkit = found[1] if found else Missing("nvidia-container-toolkit is not installed")
    fabric: str | Missing = NO_FABRIC
    if "fabric" in report.answers:
        said = report.line("fabric")
        number = re.search(r"(\d+\.[\d.]+)", said) if isinstance(said, str) else None
        fabric = number[1] if number else Missing("the host has NVSwitch, and fabric manager does not answer")
    return Driver(version, report.line("cuda"), toolkit, fabric)


def gpus(report: Report) -> tuple[Gpu, ...] | Missing:
    """The cards; none where there is no driver, Missing where the driver does not answer."""
    if "cards" not in report.answers:
        return ()
    told = report.text("cards")
    if isinstance(told, Missing):
        return told
    users: dict[str, list[int]] = {}
    apps = report.text("card_processes")
    for line in apps.splitlines() if isinstance(apps, str) else []:
        uuid, _, pid = line.partition(",")
        if pid.strip().isdigit():
            users.setdefault(uuid.strip(), []).append(int(pid))
    rows = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.count(",") == 6]
    return tuple(_gpu(row, tuple(users.get(row[1], ()))) for row in rows if row[0].isdigit())


def _gpu(row: list[str], pids: tuple[int, ...]) -> Gpu:
    index, uuid, name, total, free, capability, mig = row
    major, _, minor = capability.partition(".")
    is_known = major.isdigit() and minor.isdigit()
    return Gpu(
        int(index), uuid, name, _mib(total, "memory"), _mib(free, "free memory"),
        (int(major), int(minor)) if is_known else Missing(f"the driver does not say the capability ({capability})"),
        is_mig=mig == "Enabled", pids=pids,
    )  # fmt: skip


def _mib(text: str, what: str) -> int | Missing:
    return int(text) * MIB if text.isdigit() else Missing(f"the driver does not say the {what} ({text})")


def projects(report: Report) -> Mapping[str, ProjectState] | Missing:
    """What lies under the state directory, by project; none when there is no such directory yet."""
    if isinstance(report.answers.get("state"), Missing):
        return report.text("state")  # pyright: ignore[reportReturnType]
    names = [key.partition(":")[2] for key in report.answers if key.startswith("project:")]
    return {name: _project(report, name) for name in names}


def _project(report: Report, name: str) -> ProjectState:
    start = f"file:{name}/"
    told = {key.removeprefix(start): report.text(key) for key in report.answers if key.startswith(start)}
    found = {path: text.removesuffix(".") for path, text in told.items() if isinstance(text, str)}
    return ProjectState(found, _lines(report.text(f"journal:{name}")), _lines(report.text(f"loads:{name}")))


def _lines(told: str | Missing) -> tuple[str, ...]:
    return tuple(told.splitlines()) if isinstance(told, str) else ()


def models(report: Report) -> tuple[Mapping[str, str], Mapping[str, Disk | Missing]]:
    """Of each directory asked for: a digest of names, sizes and small files, where it is a checkpoint; and its disk."""
    digests: dict[str, str] = {}
    disks: dict[str, Disk | Missing] = {}
    for key in [key for key in report.answers if key.startswith("model:")]:
        number, path = key.partition(":")[2], report.line(key)
        if isinstance(path, Missing):
            continue
        disks[path] = disk(report, f"disk:model:{number}")
        told = report.text(f"listing:{number}")
        if isinstance(told, str) and any(line.endswith(" config.json") for line in told.splitlines()):
            digests[path] = sha256("\n".join(sorted(told.splitlines())).encode()).hexdigest()[:16]
    return digests, disks
