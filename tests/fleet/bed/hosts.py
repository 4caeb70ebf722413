"""The bed's hosts: containers on one bridge without a route out, each with its own sshd, Docker and users."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fleet.bed import engine
from tests.fleet.bed.engine import BedError, docker, run
from tests.fleet.bed.places import ROOT, Place

# What Docker inside a container needs where `--privileged` is refused.
FLAGS = (
    "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined",
    "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined", "--cgroupns=host",
    "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
)  # fmt: skip
NETWORK = "bed"
USERS = ("root", "dock", "op", "pw", "nobodyelse")  # Docker group, sudo without and with a password, neither
CARDS = 4  # of the last host
MODELS, MODELS_THERE = ROOT / "models", "/data/models"  # checkpoints that every host has
CLOSED = "AllowStreamLocalForwarding no\n"


@dataclass(frozen=True, slots=True)
class BedHost:
    """One host: how to reach it, and the container that it is."""

    name: str
    address: str
    container: str
    streamlocal: bool  # sshd lets clients reach Docker's socket through the connection
    cards: int = 0  # graphics cards it shows


@dataclass(frozen=True, slots=True)
class Bed:
    """A running bed, as bed.json tells it."""

    hosts: tuple[BedHost, ...]
    key: str  # file of the operator's private key, accepted for every user
    known_hosts: str
    password: str  # of the user pw, for sudo only
    image: str  # the product's image
    archive: str  # and its archive

    def host(self, name: str) -> BedHost:
        """The host of that name."""
        return next(host for host in self.hosts if host.name == name)


def read(place: Place) -> Bed | None:
    """The running bed; None when none runs."""
    try:
        told = json.loads(place.summary.read_text())
    except (OSError, ValueError):
        return None
    if engine.pid(place) is None:
        return None
    return Bed(**{**told, "hosts": tuple(BedHost(**host) for host in told["hosts"])})


def up(place: Place, count: int, images: tuple[str, str]) -> Bed:
    """Starts `count` hosts (or keeps those that run) and waits until ssh and Docker answer on each."""
    host_image, app_image = images
    _network(place)
    _keys(place, count)
    password = _password(place)
    hosts = tuple(_host(place, number, count) for number in range(1, count + 1))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda host: _start(place, host, host_image, password), hosts))
        list(pool.map(lambda host: wait(place, host), hosts))
    bed = Bed(hosts, str(place.keys / "operator"), str(place.keys / "known_hosts"), password, app_image,
              str(place.archive))  # fmt: skip
    _known(place, hosts)
    place.summary.write_text(json.dumps(asdict(bed), indent=1) + "\n")
    return bed


def _host(place: Place, number: int, count: int) -> BedHost:
    name = f"gpu{number:02d}"
    return BedHost(name, f"{place.subnet}.{10 + number}", f"bed-{place.tag}-{name}", number != count or count == 1,
                   CARDS if number == count else 0)  # fmt: skip


def _network(place: Place) -> None:
    if NETWORK in docker(place, "network", "ls", "--format", "{{.Name}}").split():
        return
    bridge = ["-o", f"com.docker.network.bridge.name={place.bridge}"]
    docker(place, "network", "create", "--internal", "--subnet", f"{place.subnet}.0/24", *bridge, NETWORK)


def _keys(place: Place, count: int) -> None:
    place.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("operator", *(f"gpu{number:02d}" for number in range(1, count + 1))):
        if not (place.keys / name).exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place.keys / name)])


def _known(place: Place, hosts: tuple[BedHost, ...]) -> None:
    lines = [f"{host.address} {' '.join((place.keys / f'{host.name}.pub').read_text().split()[:2])}" for host in hosts]
    (place.keys / "known_hosts").write_text("\n".join(lines) + "\n")


def _password(place: Place) -> str:
    path = place.keys / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(8))
    return path.read_text()


def _start(place: Place, host: BedHost, image: str, password: str) -> None:
    listed = docker(
        place, "ps", "-a", "--filter", f"name=^{host.container}$", "--format", "{{.Image}} {{.State}}"
    ).split()
    if listed == [image, "running"]:
        return
    if listed:
        docker(place, "rm", "-f", "-v", host.container)
    given = place.run / host.name
    given.mkdir(parents=True, exist_ok=True)
    shutil.copy(place.keys / host.name, given / "host_ed25519")
    shutil.copy(place.keys / "operator.pub", given / "authorized_keys")
    (given / "sshd_extra").write_text("" if host.streamlocal else CLOSED)
    (given / "passwords").write_text(f"pw:{password}\n")
    docker(
        place, "run", "-d", "--name", host.container, "--hostname", host.name, "--network", NETWORK,
        "--ip", host.address, *FLAGS, "--tmpfs", "/run:exec", "-v", "/var/lib/docker", "-v", f"{given}:/bed:ro",
        "-e", f"BED_CGROUP={_cgroup(place)}/{host.name}", "-e", "BED_DOCKERD=",
        "-e", f"BED_CARDS={host.cards}", "-v", f"{MODELS}:{MODELS_THERE}:ro", image,
    )  # fmt: skip


def _cgroup(place: Place) -> str:
    return f"dsbed-{place.tag}"


def wait(place: Place, host: BedHost, limit_s: float = 90.0) -> None:
    """Until ssh and Docker answer on a host; BedError with its log when they do not."""
    end = time.monotonic() + limit_s
    why = ""
    while time.monotonic() < end:
        try:
            with socket.create_connection((host.address, 22), timeout=2):
                docker(place, "exec", host.container, "docker", "version", "--format", "{{.Server.Version}}")
                return
        except (OSError, BedError) as error:
            why = str(error)
            time.sleep(0.3)
    log = docker(place, "exec", host.container, "tail", "-n", "20", "/var/log/dockerd.log")
    raise BedError(f"{host.name} is not up within {limit_s:.0f} s: {why}\n{log}")


def restart(place: Place, host: BedHost) -> None:
    """Switches a host off and on: its processes die, its disk stays."""
    docker(place, "kill", host.container)
    docker(place, "start", host.container)
    wait(place, host)


def down(place: Place, *, is_purged: bool = False) -> None:
    """Ends every host, the network and the Engine; images and keys stay for the next time unless purged."""
    if place.run.exists():
        _end(place)
    if is_purged:
        shutil.rmtree(place.root, ignore_errors=True)


def _end(place: Place) -> None:
    engine.start(place)  # also after a crash: what it left can only be removed through it
    names = docker(place, "ps", "-a", "-q", "--filter", f"name=bed-{place.tag}-").split()
    if names:
        docker(place, "rm", "-f", "-v", *names)
    with suppress(BedError):
        docker(place, "network", "rm", NETWORK)
    engine.stop(place)
    _unmount(place)
    _remove_cgroups(place)
    shutil.rmtree(place.run, ignore_errors=True)


def _unmount(place: Place) -> None:
    """What the Engine leaves mounted when it ends: network namespaces, and whatever it had no time for."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for target in reversed([target for target in mounted if Path(target).is_relative_to(place.root)]):
        with suppress(BedError):
            engine.run(["umount", "-l", target])


def _remove_cgroups(place: Place) -> None:
    """The directories the inner Engines made; rmdir refuses one that still holds a process."""
    for top in Path("/sys/fs/cgroup").glob(f"*/{_cgroup(place)}") if Path("/sys/fs/cgroup").is_dir() else []:
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
