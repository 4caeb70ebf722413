"""One container as it shall be, as a value: what a plan shows, compose files render and a door creates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SCHEMA_VERSION = 1  # of labels, releases and journal; an older dsctl refuses what a newer one wrote
LABEL = "dsctl."


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host inside the container."""

    source: str
    target: str
    is_read_only: bool = True


@dataclass(frozen=True, slots=True)
class Health:
    """How the container engine asks whether it is well: a command, and when to ask."""

    command: tuple[str, ...]
    interval_s: int = 5
    timeout_s: int = 5
    retries: int = 3
    start_s: int = 0  # failures in this time do not count


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything about one container but the host it runs on. Network is the host's; nothing is writable but tmpfs."""

    name: str
    image: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: str  # "uid:gid"
    health: Health
    gpus: tuple[str, ...] = ()  # UUIDs
    tmpfs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - inside the container, and only its own
    shm_bytes: int = 64 << 20
    memory_lock: bool = False  # memory may be pinned without limit, which cards and fabrics want
    open_files: int = 65536
    processes: int = 4096
    stop_s: int = 30  # between SIGTERM and SIGKILL
    log_bytes: int = 50 << 20  # of one log file; three are kept
    capabilities: tuple[str, ...] = ()  # all others are dropped

    @property
    def is_job(self) -> bool:
        """Nobody asks after its health: it runs once and is gone when it ends, whoever still watches."""
        return not self.health.command

    def label(self, name: str) -> str:
        """The label `dsctl.<name>`; empty when it has none."""
        return self.labels.get(LABEL + name, "")


@dataclass(frozen=True, slots=True)
class Copy:
    """What the labels of a replica's container say."""

    project: str
    name: str  # r1, r2, …
    spec_hash: str
    address: str
    port: int
    gpus: tuple[str, ...] = ()
    release: int = 0
    extra: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())

    def labels(self) -> dict[str, str]:
        """The labels that say so; whoever finds the container knows whose it is and what it holds."""
        told = {
            "schema": str(SCHEMA_VERSION), "project": self.project, "role": "replica", "replica": self.name,
            "spec": self.spec_hash, "address": self.address, "port": str(self.port), "gpus": ",".join(self.gpus),
            "release": str(self.release), **self.extra,
        }  # fmt: skip
        return {LABEL + key: value for key, value in told.items()}

    @property
    def url(self) -> str:
        """Where gateways reach it."""
        return f"http://{self.address}:{self.port}"


def container_name(project: str, part: str) -> str:
    """The name of a container of ours."""
    return f"dsctl-{project}-{part}"
