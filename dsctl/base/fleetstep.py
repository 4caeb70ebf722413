"""One thing a verb will do to a fleet, as a value: `plan` prints it and `deploy` carries out the very same.

Every action says what shall be, not what to change: carried out twice, the second time finds it done. `host` is where.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsctl.base.container import ContainerSpec
from dsctl.base.step import Row


@dataclass(frozen=True, slots=True)
class MakeHome:
    """The project's directory on the host, entered only by its owner."""


@dataclass(frozen=True, slots=True)
class ShareSecrets:
    """The project's tokens, the same on all these hosts: taken from one that has them, else made; never shown."""

    hosts: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PutSecret:
    """A file of the operator's machine (a TLS key) as a secret of the host."""

    name: str
    source: Path
    mark: str  # stands for its content


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file with exactly this text below the project's directory, written beside and renamed."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class FetchImage:
    """The image under that name with that id (empty: whatever the source has), streamed from another host."""

    image: str
    id: str
    source: str


@dataclass(frozen=True, slots=True)
class PullImage:
    """The image from its registry, by the host itself."""

    image: str


@dataclass(frozen=True, slots=True)
class BuildImage:
    """The image built on the host from a context that dsctl makes; `kind` is engine or front, `base` its base."""

    image: str
    kind: str
    base: str


@dataclass(frozen=True, slots=True)
class RunContainer:
    """That container runs as specified; one of the same name but another specification gives way."""

    spec: ContainerSpec


@dataclass(frozen=True, slots=True)
class EndContainer:
    """The container with that id is stopped (SIGTERM, then SIGKILL after `grace_s`) and removed; another id stays."""

    name: str
    id: str  # empty: the one this plan created
    grace_s: int
    is_kept: bool = False  # only stopped, for whoever wants to read its log


@dataclass(frozen=True, slots=True)
class EditTable:
    """On all these front hosts the replica table with these rows set and these names gone, under a higher generation.

    Ends when every gateway that runs there serves it.
    """

    fronts: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Waits until the container is healthy; one that dies or restarts ends the wait with its last words."""

    container: str
    url: str  # 200 there means ready; asked from inside the container
    timeout_s: float
    model: str = ""  # whose load this is, to be remembered


@dataclass(frozen=True, slots=True)
class Gate:
    """A real completion through nginx and the gateway of the front host: to one replica, or (empty) as a client's."""

    replica: str
    port: int
    is_tls: bool
    model: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Soak:
    """Watches that the replica goes on serving for so long."""

    replica: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Compare:
    """The gated replica answers golden prompts token for token as one of the others whose numerics are the same."""

    replica: str
    others: tuple[str, ...]
    port: int
    is_tls: bool
    model: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Canary:
    """Watches a replica with a share of the traffic: no death, no more errors, no later first token than the others."""

    fronts: tuple[str, ...]
    replica: str
    others: tuple[str, ...]  # copies of the release before
    seconds: float  # at least so long
    wanted: int  # answers of each side
    ttft_ratio: float  # how many times longer the first token may take
    port: int
    is_tls: bool
    model: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Waits until no front host has anything in flight on the replica, at most `timeout_s`."""

    fronts: tuple[str, ...]
    replica: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ReloadFront:
    """nginx reads its configuration again after it has found it right; the old one is put back otherwise."""

    container: str


@dataclass(frozen=True, slots=True)
class Record:
    """A release's record on all these hosts."""

    hosts: tuple[str, ...]
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A marker below the project's directory (cordon, hold) with a text, or none (None)."""

    name: str
    text: str | None


@dataclass(frozen=True, slots=True)
class DropRelease:
    """A release's record is removed."""

    number: int


@dataclass(frozen=True, slots=True)
class DropImage:
    """An image that no container and no kept release uses is removed."""

    image: str


@dataclass(frozen=True, slots=True)
class ForgetProject:
    """The project's directory on the host is removed with all secrets."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One host gets weights from another."""

    sender: str  # empty: the operator's machine
    receiver: str
    directory: str  # of the sender
    address: str = ""  # by which the receiver reaches the sender


@dataclass(frozen=True, slots=True)
class Cargo:
    """Weights on their way: where they go on every host, and by which means."""

    directory: str
    origin: str  # the source as the operator calls it
    root: str  # hash of everything; empty: the source tells it when it is first asked
    size: int  # bytes
    image: str  # one that has dsctl in it, for the short-lived containers
    owners: tuple[tuple[str, str], ...]  # host → uid:gid these run as
    rate: float = 0.0  # most bytes a second of one sender; 0: no cap


@dataclass(frozen=True, slots=True)
class SpreadWeights:
    """These transfers at the same time; where a sender goes away, another holder takes its place."""

    cargo: Cargo
    transfers: tuple[Transfer, ...]
    spares: tuple[Transfer, ...] = ()  # who else has them; the receiver is empty


@dataclass(frozen=True, slots=True)
class PullWeights:
    """The host gets the weights from a mirror itself."""

    cargo: Cargo
    token_file: Path | None = None  # on the operator's machine
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class DropWeights:
    """A directory of weights that no kept release names is removed."""

    directory: str


FleetAction = (
    MakeHome | ShareSecrets | PutSecret | PutFile | FetchImage | PullImage | BuildImage | RunContainer | EndContainer
    | EditTable | AwaitReady | Gate | Soak | Compare | Canary | Drain | ReloadFront | Record | Mark | DropRelease
    | DropImage | ForgetProject | SpreadWeights | PullWeights | DropWeights
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FleetStep:
    """One action on one host (for an action on several: the first), its sentence and its reason.

    `replica` names the new replica the step brings up.
    """

    host: str
    title: str
    action: FleetAction
    why: str = ""
    replica: str = ""
