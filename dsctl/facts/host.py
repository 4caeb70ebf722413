"""What one host of a fleet says about itself: every answer is a value or Missing with the reason why there is none.

A host that could not be asked at all has no HostFacts; whoever asks keeps Missing under its name instead.
Sizes are bytes, times are seconds. Planning reads these values and nothing else, so a recorded fleet plans as a real
one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsctl.base.missing import Missing

NOT_ASKED = Missing("not asked")
NO_FABRIC = Missing("this host has no NVSwitch")
LABEL = "dsctl."  # every label of ours starts with it: dsctl.project, dsctl.role, dsctl.spec, …


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card as the driver names it."""

    index: int
    uuid: str  # GPU-…; what a container is given
    name: str
    memory: int | Missing  # bytes in all
    free: int | Missing  # bytes nobody uses now
    capability: tuple[int, int] | Missing  # (9, 0) is sm_90
    is_mig: bool = False  # split into MIG instances: not a slot as a whole
    pids: tuple[int, ...] = ()  # processes that compute on it


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver and what containers need to get at it."""

    version: str
    cuda: str | Missing  # newest CUDA the driver serves
    toolkit: str | Missing  # nvidia-container-toolkit's version
    fabric_manager: str | Missing = NO_FABRIC


@dataclass(frozen=True, slots=True)
class Docker:
    """The container engine this login can use."""

    version: str
    api: str  # "1.47"
    socket: str  # the path on the host that answered
    way: str  # "streamlocal": straight to the socket; "dial-stdio": through the docker program; "sudo": that as root
    root: str | Missing  # where images lie (/var/lib/docker)
    runtimes: tuple[str, ...] = ()
    is_rootless: bool = False
    storage: str = ""  # overlay2 | vfs | …
    images: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())  # repository:tag → image id (sha256:…)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of ours, running or not."""

    name: str
    id: str
    image: str  # image id (sha256:…)
    state: str  # created | running | paused | restarting | removing | exited | dead
    labels: Mapping[str, str]  # only those that start with LABEL
    health: str = ""  # starting | healthy | unhealthy; empty: no health check
    exit_code: int = 0
    restarts: int = 0

    @property
    def is_running(self) -> bool:
        """True while its process runs."""
        return self.state == "running"

    def label(self, name: str) -> str:
        """The label `dsctl.<name>`; empty when it has none."""
        return self.labels.get(LABEL + name, "")


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that holds a path."""

    path: str
    total: int
    free: int
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class ProjectState:
    """What lies under /var/lib/dsctl/<project>/, as texts; planning reads them."""

    files: Mapping[str, str]  # small files by path below the project's directory: releases/7.json, fence, cordon, …
    journal: tuple[str, ...] = ()  # the last lines of journal.jsonl
    loads: tuple[str, ...] = ()  # the last lines of loads.jsonl


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host, looked at once."""

    name: str  # as the inventory calls it
    address: str | Missing  # the one other hosts reach it by (fabric, else the default route's)
    os: str | Missing  # "Debian GNU/Linux 12 (bookworm)"
    kernel: str | Missing
    arch: str | Missing  # x86_64 | aarch64
    cores: int | Missing
    memory: int | Missing
    available: int | Missing  # memory that could be used now
    disks: Mapping[str, Disk | Missing]  # by what they were asked for: "state", "docker", "weights"
    docker: Docker | Missing
    gpus: tuple[Gpu, ...] | Missing  # empty: looked, and there is none
    driver: Driver | Missing
    ports: frozenset[int] | Missing  # TCP ports somebody listens on
    containers: tuple[Container, ...] | Missing  # of every project
    projects: Mapping[str, ProjectState] | Missing  # by name
    skew: float | Missing  # seconds this host's clock is ahead of ours
    cgroup: int | Missing  # 1 | 2
    user: str | Missing = NOT_ASKED
    is_root: bool = False
    uid: int | Missing = NOT_ASKED  # of the login
    gid: int | Missing = NOT_ASKED
    sudo: bool | Missing = NOT_ASKED  # True: `sudo -n` works
    systemd: str | Missing = NOT_ASKED  # its version
    weights: Mapping[str, str] | Missing = NOT_ASKED  # directory asked for → digest of its listing

    def ours(self, project: str) -> tuple[Container, ...]:
        """The containers of one project; none when they could not be listed."""
        if isinstance(self.containers, Missing):
            return ()
        return tuple(each for each in self.containers if each.label("project") == project)
