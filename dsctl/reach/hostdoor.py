"""What a door to one host of a fleet can do; the real one goes through SSH, the fake one is a machine in memory.

Everything is small and repeatable. `home` is the project's directory on the host; paths are below it. Whatever changes
something is refused (FencedError) once another operator has taken the host's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dsctl.base.container import ContainerSpec
from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, HostFacts

Told = Callable[[Mapping[str, Any]], None]  # hears Docker's progress, line by line


class FencedError(DsctlError):
    """Another operator took the host's lock meanwhile: nothing more may be changed by this run."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command in a container ended."""

    code: int
    text: str  # what it wrote


class HostDoor(Protocol):
    """The way to one host, for one project."""

    @property
    def name(self) -> str:
        """As the inventory calls it."""
        ...

    @property
    def project(self) -> str:
        """Whose door it is."""
        ...

    @property
    def home(self) -> str:
        """The project's directory on the host."""
        ...

    def facts(self) -> HostFacts | Missing:
        """Everything the host says; Missing when it cannot be reached."""
        ...

    def claim(self, verb: str) -> None:
        """Takes the host's lock for this project; LockHeldError with the holder's words when somebody has it."""
        ...

    def release(self) -> None:
        """Gives the lock back."""
        ...

    def read(self, path: str) -> str | Missing:
        """A file's text."""
        ...

    def peek(self, path: str) -> str | Missing:
        """A file anywhere on the host, by its absolute path."""
        ...

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file with this text, temp + rename, owned by the containers' user; its directories are made."""
        ...

    def append(self, path: str, line: str) -> None:
        """One more line of a file."""
        ...

    def remove(self, path: str) -> None:
        """No file or directory there; an empty path is the project's home itself."""
        ...

    def look(self, script: str, *arguments: str) -> str | Missing:
        """What a shell script that only looks writes; Missing when it fails."""
        ...

    def arrange(self, script: str, *arguments: str) -> None:
        """A shell script that changes something outside the project's directory; DsctlError when it fails."""
        ...

    def forward(self, port: int) -> AbstractContextManager[int]:
        """A loopback port on the host that leads to `port` on this machine's loopback, while the block runs."""
        ...

    def containers(self) -> Sequence[Container]:
        """Every container with our labels, of any project."""
        ...

    def create(self, spec: ContainerSpec) -> str:
        """A new container, not started; its id."""
        ...

    def start(self, container: str) -> None:
        """Starts it; nothing when it runs."""
        ...

    def stop(self, container: str, grace_s: int) -> None:
        """SIGTERM, SIGKILL after `grace_s`; nothing when it does not run."""
        ...

    def delete(self, container: str) -> None:
        """Removes a stopped container; nothing when there is none."""
        ...

    def run_in(self, container: str, argv: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0) -> Ran | Missing:
        """A command in a running container; Missing when it does not run."""
        ...

    def logs(self, container: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """The last lines a container wrote, and with `follow` the new ones."""
        ...

    def image_id(self, image: str) -> str:
        """The id of an image (sha256:…); empty when the host does not have it."""
        ...

    def save(self, image: str) -> Iterator[bytes]:
        """The image as an archive."""
        ...

    def load(self, archive: Iterable[bytes]) -> None:
        """Takes an archive in."""
        ...

    def push_to(self, image: str, port: int, told: Told) -> str:
        """The image's layers to the registry behind the host's loopback port; the digest it got there."""
        ...

    def pull_from(self, image: str, port: int, digest: str, told: Told) -> None:
        """The image of that digest, under its own name, from the registry behind the host's loopback port."""
        ...

    def pull(self, image: str) -> None:
        """From its registry."""
        ...

    def build(self, image: str, context: bytes) -> None:
        """From a context (tar) with a Dockerfile."""
        ...

    def drop_image(self, image: str) -> None:
        """Removes an image; nothing when it is not there."""
        ...
