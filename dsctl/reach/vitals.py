"""The door to this machine's state: small files of the kernel, limits, disks, environment; nothing is changed."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path

from dsctl.base.missing import Missing
from dsctl.facts import links
from dsctl.reach.machine import read

ALLOWED = (
    "NCCL_",
    "TORCH_NCCL_",
    "TORCH_FR_",
    "PYTORCH_",
    "CUDA_",
    "NVIDIA_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_NUM",
    "GLOO_",
)
DISKS = ("/", "/tmp", "/var/lib/docker", "/var/log", "~", "~/.cache/huggingface")  # noqa: S108 - a place to look at
MOST_KMSG = 8 << 20


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


def file(path: str) -> str | Missing:
    """A small file of the kernel."""
    return read(Path(path))


def environment() -> dict[str, str]:
    """The variables that matter to CUDA, NCCL and OpenMP; no other name is looked at."""
    return {name: value for name, value in os.environ.items() if name.startswith(ALLOWED)}


def cores() -> int:
    """Usable cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits() -> dict[str, int]:
    """Hard limits of this process by short name; -1 means unlimited."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "memlock": resource.RLIMIT_MEMLOCK, "nproc": resource.RLIMIT_NPROC}
    return {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}


def space(path: str) -> tuple[int, int, int] | Missing:
    """(total bytes, free bytes for users, device number) of the file system of `path`."""
    place = Path(path).expanduser()
    try:
        found = os.statvfs(place)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, place.stat().st_dev
    except OSError as error:
        return Missing(f"{place}: {error}")


def disks() -> dict[str, tuple[int, int, int]]:
    """Space of the usual places that exist, each file system once."""
    found: dict[str, tuple[int, int, int]] = {}
    for path in DISKS:
        answer = space(path)
        if not isinstance(answer, Missing) and answer[0] and answer[2] not in {kept[2] for kept in found.values()}:
            found[path] = answer
    return found


def program(names: tuple[str, ...]) -> str | Missing:
    """The first of these programs on the path."""
    return next(
        (path for name in names if (path := shutil.which(name))), Missing(f"none of {', '.join(names)} is on PATH")
    )


def pci_cards() -> list[str] | Missing:
    """Bus numbers of NVIDIA display and compute devices."""
    root = Path("/sys/bus/pci/devices")
    if not root.is_dir():
        return Missing("/sys/bus/pci is not there")
    return [
        device.name
        for device in sorted(root.iterdir())
        if file(f"{device}/vendor") == "0x10de\n" and str(file(f"{device}/class")).startswith(("0x0300", "0x0302"))
    ]


def acs_bridges() -> list[str] | Missing:
    """Bus numbers of PCIe bridges that send peer-to-peer traffic through the root (ACS source validation is on)."""
    root = Path("/sys/bus/pci/devices")
    found: list[str] = []
    seen = 0
    try:
        for device in sorted(root.iterdir()):
            if str(file(f"{device}/class")).startswith("0x0604"):
                config = (device / "config").read_bytes()
                seen += 1
                if len(config) < 4096:
                    return Missing("reading ACS needs root (PCIe configuration space)")
                if acs_is_on(config):
                    found.append(device.name)
    except OSError as error:
        return Missing(f"{root}: {error}")
    return found if seen else Missing("no PCIe bridge can be seen")


def acs_is_on(config: bytes) -> bool:
    """True when a bridge's configuration space has ACS with source validation switched on."""
    at = 0x100
    for _ in range(96):
        if at < 0x100 or at + 8 > len(config):
            return False
        head = int.from_bytes(config[at : at + 4], "little")
        if head & 0xFFFF == 0x000D:  # the ACS capability; its control register is at +6
            return bool(config[at + 6] & 0x01)
        at = head >> 20
    return False


def ports() -> str | Missing:
    """What /sys says of this machine's network ports, one line each."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{links.SCRIPT}\nlinks"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Missing(f"/sys/class/net: {problem}")
    return Missing("/sys/class/net is not there") if done.returncode else done.stdout


def has_infiniband() -> bool:
    """True when RDMA devices are there."""
    return Path("/dev/infiniband").is_dir()


def alive(pid: int) -> bool:
    """True while a process of that number exists here."""
    return Path(f"/proc/{pid}").exists()


def kernel_log(max_age_s: float) -> str | Missing:
    """The kernel's ring buffer of the last `max_age_s` seconds as `[seconds] text` lines."""
    try:
        handle = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return Missing(f"/dev/kmsg: {error.strerror}; give `dmesg` output with --logs, or run as root")
    uptime = file("/proc/uptime")
    now = float(str(uptime).split()[0]) if not isinstance(uptime, Missing) else 0.0
    lines: list[str] = []
    size = 0
    try:
        while size < MOST_KMSG:
            try:
                record = os.read(handle, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                break
            except OSError:  # a record was overwritten while it was read: the next one follows
                size += 1
                continue
            size += len(record)
            head, _, text = record.partition(";")
            fields = head.split(",")
            seconds = int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else 0.0
            if now - seconds <= max_age_s:
                lines.append(f"[{seconds:12.6f}] {text.splitlines()[0] if text else ''}")
    finally:
        os.close(handle)
    return "\n".join(lines) + "\n"
