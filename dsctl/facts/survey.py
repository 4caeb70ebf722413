"""What a remote host says to the doctor: one POSIX shell script that only looks, and the reading of its answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree import ElementTree

from dsctl.base.cards import UNSUPPORTED, Card, Cards, Reading
from dsctl.base.missing import Missing
from dsctl.facts import links

MOST_XML = 16 << 20
SCRIPT = r"""
LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/cuda/bin"
export LC_ALL PATH
if command -v timeout >/dev/null 2>&1; then limit="timeout -k 2 20"; else limit=; fi
answer() {
    name=$1
    shift
    said=$("$@" 2>&1)
    printf '@@ %s %d\n' "$name" $?
    printf '%s\n' "$said" | sed 's/^/ /'
}
bus() {
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
        case $(cat "$device/class" 2>/dev/null) in 0x0300* | 0x0302*) basename "$device" ;; esac
    done
    [ -d /sys/bus/pci/devices ]
}
kernel() {
    $limit dmesg 2>/dev/null && return
    $limit journalctl -k -o short-iso --since "@$(($(date +%s) - since))" --no-pager -q
}
sizes() { df -P -k / /tmp /var/lib/docker /var/log 2>/dev/null | sed 1d; }
LINKS
since=$1
answer time date +%s.%N
answer kernel uname -r
answer memory cat /proc/meminfo
answer flags sh -c 'grep -m 1 ^flags /proc/cpuinfo'
answer cores getconf _NPROCESSORS_ONLN
answer thp cat /sys/kernel/mm/transparent_hugepage/enabled
answer governor cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
answer files cat /proc/sys/fs/file-nr
answer nofile sh -c 'ulimit -Hn'
answer memlock sh -c 'ulimit -Hl'
answer infiniband test -d /dev/infiniband
answer shm df -P -k /dev/shm
answer disks sizes
answer compiler sh -c 'command -v cc || command -v gcc || command -v clang'
answer cmdline cat /proc/cmdline
answer bus bus
answer driver sh -c 'cat /sys/module/nvidia/version'
answer docker sh -c 'docker version --format "{{.Server.Version}}"'
answer toolkit sh -c 'v=$(nvidia-ctk --version 2>/dev/null) && echo "$v" | head -n 1'
answer fabricmanager sh -c 'v=$(nv-fabricmanager --version 2>/dev/null) && echo "$v" | head -n 1'
answer firmware sh -c 'cat /sys/class/infiniband/*/fw_ver 2>/dev/null | sort -u | tr "\\n" " "'
answer links links
answer tcp sh -c 'cat /proc/net/tcp /proc/net/tcp6'
if command -v nvidia-smi >/dev/null 2>&1; then answer cards $limit nvidia-smi -q -x; fi
answer log kernel
echo '@@ end 0'
""".replace("LINKS", links.SCRIPT.strip())
VERSIONS = ("kernel", "driver", "docker", "toolkit", "fabricmanager", "firmware")
_SLOW = {
    "hw_slowdown": 0x08, "sw_power_cap": 0x04, "sw_thermal_slowdown": 0x20, "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}  # fmt: skip
_UNCORRECTABLE = ("dram_uncorrectable", "sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded")
_FABRIC = {"completed": 3, "in progress": 2, "not started": 1}


@dataclass(slots=True)
class Survey:
    """One host's answer: facts by the names that rules need, what is missing and why, its kernel's log, versions."""

    facts: dict[str, object] = field(default_factory=lambda: dict[str, object]())
    missing: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    log: str | Missing = field(default_factory=lambda: Missing("not asked"))
    versions: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    time: float | None = None


def read(text: str) -> Survey:
    """The survey in the script's output. What was cut off or failed is missing, never empty."""
    said = _sections(text)
    found = Survey()
    if "end" not in said:
        found.missing["survey"] = "the host's answer was cut off"
    _machine(found, said)
    _graphics(found, said)
    for name in VERSIONS:
        if (answer := _ok(said, name)) and "\n" not in answer:
            found.versions[name] = answer
    found.time = _number(_ok(said, "time"))
    log = said.get("log")
    if log is None or log[0] or not log[1].strip():
        found.log = Missing("the kernel's log is not readable with this login (dmesg, journalctl)")
    else:
        found.log = log[1]
    return found


def _sections(text: str) -> dict[str, tuple[int, str]]:
    """name → (exit code, text) of every answer that arrived whole."""
    said: dict[str, tuple[int, str]] = {}
    name, code, lines = "", 0, list[str]()
    for line in text.splitlines():
        if head := re.fullmatch(r"@@ (\w+) (\d+)", line):
            if name:
                said[name] = (code, "\n".join(lines))
            name, code, lines = head[1], int(head[2][:6]), []
        else:
            lines.append(line.removeprefix(" "))
    if name == "end":
        said["end"] = (0, "")
    return said


def _ok(said: dict[str, tuple[int, str]], name: str) -> str:
    code, text = said.get(name, (1, ""))
    return text.strip() if code == 0 else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _machine(found: Survey, said: dict[str, tuple[int, str]]) -> None:
    def put(name: str, value: object | None, why: str) -> None:
        if value is None:
            found.missing[name] = f"the host did not tell ({why})"
        else:
            found.facts[name] = value

    sizes = dict(re.findall(r"^(\w+): +(\d{1,15}) kB", _ok(said, "memory"), re.MULTILINE))
    is_there = "MemTotal" in sizes and "MemAvailable" in sizes
    memory = (int(sizes["MemTotal"]) * 1024, int(sizes["MemAvailable"]) * 1024) if is_there else None
    put("memory", memory, "/proc/meminfo")
    flags = _ok(said, "flags").partition(":")[2].split()
    put("cpu", frozenset(flags) if flags else "not an x86 processor" if "flags" in said else None, "/proc/cpuinfo")
    for name in ("thp", "governor"):
        put(name, [answer] if (answer := _ok(said, name)) else None, name)
    files = _ok(said, "files").split()
    put(
        "files", (int(files[0]), int(files[2])) if len(files) == 3 and all(map(str.isdigit, files)) else None, "file-nr"
    )
    put("limits", {"nofile": _limit(answer, 1)} if (answer := _ok(said, "nofile")) else None, "ulimit")
    rdma = said.get("infiniband", (-1, ""))[0]
    lock = _ok(said, "memlock")
    limit = _limit(lock, 1024) if lock and rdma == 0 else None
    put("memlock", "no RDMA device here" if rdma == 1 else limit, "ulimit")
    disks = {row[5]: row for line in _ok(said, "disks").splitlines() if len(row := line.split()) == 6}
    rows = {path: row for path, row in disks.items() if row[1].isdigit() and row[3].isdigit()}
    put("disks", {path: (int(r[1]) * 1024, int(r[3]) * 1024, 0) for path, r in rows.items()} or None, "df")
    put(
        "compiler", (answer, "") if (answer := _ok(said, "compiler")) else ("", "none of cc, gcc, clang is on PATH"), ""
    )
    ports = links.read(_ok(said, "links")) if said.get("links", (1, ""))[0] == 0 else Missing("/sys/class/net")
    put("links", None if isinstance(ports, Missing) else ports, "/sys/class/net")
    tables = _ok(said, "tcp") or said.get("tcp", (1, ""))[1]  # tcp6 may be absent: its code is no verdict
    put("listening", listening(tables) if "local_address" in tables else None, "/proc/net/tcp")
    cores = _number(_ok(said, "cores"))
    put("cores", int(cores) if cores else None, "getconf")


def listening(tables: str) -> frozenset[int]:
    """The TCP ports that something listens on, in the text of /proc/net/tcp and tcp6."""
    rows = [line.split() for line in tables.splitlines()]
    ports = [row[1].rpartition(":")[2] for row in rows if len(row) > 3 and row[3] == "0A"]
    return frozenset(int(port, 16) for port in ports if re.fullmatch(r"[0-9A-Fa-f]{4}", port))


def _limit(text: str, unit: int) -> int:
    return int(text[:15]) * unit if text[:15].isdigit() else -1


def _graphics(found: Survey, said: dict[str, tuple[int, str]]) -> None:
    """Cards, as the local look has them; none on the bus is not a fault."""
    bus = said.get("bus", (1, ""))
    if bus[0] == 0 and not bus[1].split():
        found.facts["gpu"] = "no NVIDIA card on the bus"
        return
    code, text = said.get("cards", (127, "nvidia-smi is not there"))
    found.facts["gpu on the bus"] = len(bus[1].split()) if bus[0] == 0 else 0
    if code == 124:
        found.facts["gpu"] = Cards(problem="hung", words="nvidia-smi did not answer in 20 s")
        return
    cards = _cards(text) if code == 0 else Missing(text.strip()[:300])
    if isinstance(cards, Missing):
        known = (
            ("version mismatch", "mismatch"),
            ("couldn't communicate", "not loaded"),
            ("is not there", "not loaded"),
        )
        problem = next((name for words, name in known if words in cards.reason), "failed")
        found.facts["gpu"] = Cards(problem=problem, words=cards.reason)
        return
    found.facts["gpu"] = Cards(cards)
    shm = _ok(said, "shm").splitlines()[-1:]
    row = shm[0].split() if shm else []
    if len(cards) < 2:
        found.facts["shm"] = "fewer than two cards"
    elif len(row) > 2 and row[1].isdigit():
        found.facts["shm"] = int(row[1]) * 1024
    for name in sorted({name for card in cards for name in card.readings}):
        answers = [card.readings.get(name) for card in cards]
        absent = all(isinstance(answer, Missing) for answer in answers)
        found.facts[f"gpu.{name}"] = UNSUPPORTED if absent else answers


def _cards(text: str) -> tuple[Card, ...] | Missing:
    """The cards in nvidia-smi's XML."""
    if len(text) > MOST_XML:
        return Missing(f"nvidia-smi wrote more than {MOST_XML} bytes")
    try:
        root = ElementTree.fromstring(text[text.find("<nvidia_smi_log") :])  # noqa: S314 - expat bounds entities itself
    except (ElementTree.ParseError, ValueError) as problem:
        return Missing(f"nvidia-smi's XML cannot be read: {problem}")
    return tuple(_card(index, node) for index, node in enumerate(root.findall("gpu")))


def _card(index: int, node: ElementTree.Element) -> Card:
    def get(path: str, pick: Callable[[str], Reading | None] = lambda text: _first(text)) -> Reading:
        text = (node.findtext(path) or "").strip()
        value = None if text in ("", "N/A", "[N/A]", "Not Supported") else pick(text)
        return Missing(UNSUPPORTED) if value is None else value

    tags = ("clocks_event_reasons", "clocks_throttle_reasons")
    reasons = next((found for tag in tags if (found := node.find(tag)) is not None), None)
    power = next(
        (tag for tag in ("gpu_power_readings", "power_readings") if node.find(tag) is not None), "gpu_power_readings"
    )
    limit = get(f"{power}/enforced_power_limit", _milli)
    readings: dict[str, Reading] = {
        "clocks": Missing(UNSUPPORTED) if reasons is None else _mask(reasons),
        "ecc": _sum(node, "ecc_errors/volatile", _UNCORRECTABLE),
        "rows_pending": get("remapped_rows/remapped_row_pending", _yes),
        "rows_failed": get("remapped_rows/remapped_row_failure", _yes),
        "retired_pending": get("retired_pages/pending_retirement", _yes),
        "persistence": get("persistence_mode", lambda text: int(text == "Enabled")),
        "power_limit": get(f"{power}/current_power_limit", _milli) if isinstance(limit, Missing) else limit,
        "power_default": get(f"{power}/default_power_limit", _milli),
        "pcie_width": get("pci/pci_gpu_link_info/link_widths/current_link_width"),
        "pcie_width_max": get("pci/pci_gpu_link_info/link_widths/max_link_width"),
        "pcie_gen": get("pci/pci_gpu_link_info/pcie_gen/current_link_gen"),
        "pcie_gen_max": get("pci/pci_gpu_link_info/pcie_gen/max_link_gen"),
        "pstate": get("performance_state", lambda text: _first(text.removeprefix("P"))),
        "temperature": get("temperature/gpu_temp"),
        "slowdown_at": get("temperature/gpu_temp_slow_threshold"),
        "fabric": get("fabric/state", lambda text: _FABRIC.get(text.lower())),
    }  # fmt: skip
    return Card(index, node.findtext("product_name") or "?", str(node.get("id", f"card {index}")).lower(), readings)


def _first(text: str) -> int | None:
    found = re.match(r"-?\d{1,12}", text)
    return int(found[0]) if found else None


def _milli(text: str) -> int | None:
    found = re.match(r"\d{1,6}(?:\.\d{1,3})?", text)
    return int(float(found[0]) * 1000) if found else None


def _yes(text: str) -> int | None:
    return {"Yes": 1, "No": 0}.get(text)


def _mask(reasons: ElementTree.Element) -> int:
    return sum(
        _SLOW.get(re.sub(r"^clocks_(?:event|throttle)_reasons?_", "", n.tag), 0) for n in reasons if n.text == "Active"
    )


def _sum(node: ElementTree.Element, place: str, names: tuple[str, ...]) -> Reading:
    counts = [number for name in names if (number := _first(node.findtext(f"{place}/{name}") or "")) is not None]
    return sum(counts) if counts else Missing(UNSUPPORTED)


def command(since_s: float) -> list[str]:
    """The arguments of the script: how far back the kernel's log is read."""
    return [shlex.quote(str(int(since_s)))]
