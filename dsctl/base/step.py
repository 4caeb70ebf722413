"""One thing a verb will do to the world, as a value: `plan` prints it, `apply` carries it out, nothing else may."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RowState = Literal["active", "gated", "draining"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the replica table the gateway reads."""

    name: str
    url: str
    spec_hash: str
    state: RowState
    weight: int = 1
    share: float = 0.0  # of all requests, the part that begins here while it is a canary; 0: what its load allows


@dataclass(frozen=True, slots=True)
class MakeState:
    """Private directories and the two tokens of the project."""


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file with exactly this text (mode 0600), written beside and renamed; untouched when it is equal already."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """No file under that path."""

    path: Path


@dataclass(frozen=True, slots=True)
class StartSupervisor:
    """supervisord as a daemon; one that no longer answers is ended first."""


@dataclass(frozen=True, slots=True)
class StopSupervisor:
    """Ends supervisord and everything it supervises."""

    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class StartProgram:
    """Hands one program's file to supervisord and starts it; a program that runs from an older file is restarted."""

    name: str
    text: str  # the program's file
    port: int  # where it will listen; remembered


@dataclass(frozen=True, slots=True)
class StopProgram:
    """Ends one program and forgets its file; the log stays."""

    name: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ends a process that lost its supervisor: SIGTERM, then SIGKILL after `grace_s`."""

    name: str
    pid: int
    started: str  # as the kernel tells it; another process under the same pid is left alone
    grace_s: float = 25.0


@dataclass(frozen=True, slots=True)
class SetTable:
    """The replica table with these rows under the next generation; waits until a running gateway has read it."""

    rows: tuple[Row, ...]
    front: str  # the gateway's address


@dataclass(frozen=True, slots=True)
class Unlist:
    """The replica table without these replicas, whatever else is in it; the way back after a failure."""

    names: tuple[str, ...]
    front: str


@dataclass(frozen=True, slots=True)
class AwaitGateway:
    """Waits until the front answers on its address."""

    url: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Waits until a replica says it is ready; a crash loop ends the wait with the last lines of its log."""

    name: str
    url: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Gate:
    """A real completion through the front: to one gated replica, or (name empty) as any client would send it."""

    name: str
    front: str
    model: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Drain:
    """Waits until a draining replica has nothing in flight, at most `timeout_s`."""

    name: str
    front: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Forget:
    """Removes everything the project ever wrote."""


Action = (
    MakeState
    | WriteFile
    | RemoveFile
    | StartSupervisor
    | StopSupervisor
    | StartProgram
    | StopProgram
    | Terminate
    | SetTable
    | Unlist
    | AwaitGateway
    | AwaitReady
    | Gate
    | Drain
    | Forget
)


@dataclass(frozen=True, slots=True)
class Step:
    """One action, the sentence that announces it and its reason; `replica` names the new replica it brings up."""

    title: str
    action: Action
    why: str = ""
    replica: str = ""
