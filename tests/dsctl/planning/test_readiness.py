"""What a host lacks is named with its fix, and what is only worth knowing does not block."""

from __future__ import annotations

from dataclasses import replace

from dsctl.base.missing import Missing
from dsctl.facts.host import Disk, Docker, Driver
from dsctl.planning.readiness import lacks
from tests.dsctl.planning import fleets

GIB = 1 << 30
DOCKER = Docker("28.0", "1.48", "/var/run/docker.sock", "streamlocal", "/var/lib/docker", storage="overlay2")
READY = replace(
    fleets.host("a", 0), docker=DOCKER, driver=Missing("no NVIDIA driver on this host"), gpus=(), skew=0.0,
    disks={"state": Disk("/", 100 * GIB, 50 * GIB), "docker": Disk("/", 100 * GIB, 50 * GIB)},
)  # fmt: skip


def named(facts: object = READY, *, can_write: bool = True, wants_cards: bool = False) -> dict[str, bool]:
    """What is lacking, and whether it blocks."""
    found = lacks(facts, "/var/lib/dsctl", can_write=can_write, wants_cards=wants_cards)  # type: ignore[arg-type]
    told = list(found)
    assert all(lack.why and lack.fix for lack in told)
    return {lack.what: lack.is_blocking for lack in told}


def test_a_host_with_everything_lacks_nothing() -> None:
    """A host with Docker, room and a writable state directory is ready; cards are missed only where they are wanted."""
    assert named() == {}
    assert named(wants_cards=True) == {"driver": True}


def test_every_lack_has_its_name() -> None:
    """No Docker, no room, a read-only disk, no permission, a wrong clock, an unknown address."""
    closed = Missing("/var/run/docker.sock is not open to this user: add it to the docker group, or allow it sudo")
    assert named(replace(READY, docker=closed)) == {"docker": True}
    full = {"state": Disk("/", 100 * GIB, GIB), "docker": Disk("/d", 100 * GIB, 50 * GIB, is_read_only=True)}
    assert named(replace(READY, disks=full)) == {"state disk": True, "docker disk": True}
    assert named(can_write=False) == {"state directory": True}
    assert named(replace(READY, skew=-600.0)) == {"clock": False}
    assert named(replace(READY, address=Missing("unknown"))) == {"address": True}
    assert named(replace(READY, docker=replace(DOCKER, storage="vfs"))) == {"storage driver": False}


def test_cards_need_more_than_a_driver() -> None:
    """A driver without toolkit, fabric manager or answer blocks where cards are wanted, and is told of elsewhere."""
    broken = Driver("535", "12.2", Missing("nvidia-container-toolkit is not installed"),
                    Missing("the host has NVSwitch, and fabric manager does not answer"))  # fmt: skip
    facts = replace(READY, driver=broken, gpus=Missing("cards: Driver/library version mismatch"))
    expected = ("cards", "container toolkit", "fabric manager")
    assert named(facts, wants_cards=True) == dict.fromkeys(expected, True)
    assert named(facts) == dict.fromkeys(expected, False)
