"""What a host still lacks before anything can be deployed on it, each lack with its fix; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dsctl.base.missing import Missing
from dsctl.base.units import size
from dsctl.facts.host import Disk, Docker, HostFacts

LEAST_FREE = 2 << 30  # bytes for an image and its logs
MOST_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing on a host."""

    what: str
    why: str
    fix: str
    is_blocking: bool = True  # a deployment would be refused; otherwise it is worth knowing


def lacks(facts: HostFacts, state_dir: str, *, can_write: bool, wants_cards: bool) -> Iterator[Lack]:
    """Everything that is missing, the blocking first."""
    yield from _docker(facts)
    if not can_write:
        yield Lack("state directory", f"{state_dir} cannot be written by {facts.user}",
                   f"sudo install -d -m 0750 -o {facts.user} {state_dir}")  # fmt: skip
    yield from _disks(facts)
    yield from _cards(facts, wants_cards)
    if isinstance(facts.skew, float) and abs(facts.skew) > MOST_SKEW_S:
        yield Lack("clock", f"{facts.skew:+.0f} s off this machine's", "sudo apt-get install chrony", is_blocking=False)
    if isinstance(facts.address, Missing):
        yield Lack("address", facts.address.reason, "fabric: ADDRESS in the inventory")


def _docker(facts: HostFacts) -> Iterator[Lack]:
    if isinstance(facts.docker, Docker):
        if facts.docker.storage == "vfs":
            yield Lack("storage driver", "vfs copies every layer", "use overlay2", is_blocking=False)
        return
    why = facts.docker.reason
    fix = f"sudo usermod -aG docker {facts.user}, then log in anew" if "not open to this user" in why else ""
    yield Lack("docker", why, fix or "sudo apt-get install docker.io")


def _disks(facts: HostFacts) -> Iterator[Lack]:
    for name, disk in facts.disks.items():
        if not isinstance(disk, Disk):
            if name != "docker":  # said already
                yield Lack(f"{name} disk", disk.reason, f"df on {facts.name}")
        elif disk.is_read_only and name != "weights":
            yield Lack(f"{name} disk", f"{disk.path} is mounted read-only", f"mount -o remount,rw {disk.path}")
        elif disk.free < LEAST_FREE and name != "weights":
            yield Lack(f"{name} disk", f"{size(disk.free)} free on {disk.path}", "dsctl prune, or free some space")


def _cards(facts: HostFacts, wants_cards: bool) -> Iterator[Lack]:
    driver = facts.driver
    if isinstance(driver, Missing):
        if wants_cards or "not loaded" in driver.reason:
            yield Lack("driver", driver.reason, "dsctl provision, or reboot after an update of the driver",
                       is_blocking=wants_cards)  # fmt: skip
        return
    if isinstance(facts.gpus, Missing):
        yield Lack("cards", facts.gpus.reason, "dsctl doctor; the driver and its library may differ: reboot",
                   is_blocking=wants_cards)  # fmt: skip
    toolkit = "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker"
    if isinstance(driver.toolkit, Missing):
        yield Lack("container toolkit", driver.toolkit.reason, toolkit, is_blocking=wants_cards)
    if isinstance(driver.fabric_manager, Missing) and "does not answer" in driver.fabric_manager.reason:
        yield Lack("fabric manager", driver.fabric_manager.reason, "sudo systemctl enable --now nvidia-fabricmanager",
                   is_blocking=wants_cards)  # fmt: skip
