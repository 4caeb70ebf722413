"""Docker's API on another host: the docker SDK over channels of the one SSH connection, straight or by dial-stdio."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import docker
import paramiko
import requests.adapters
import urllib3
import urllib3.connection

from dsctl.base.missing import Missing

if TYPE_CHECKING:
    from dsctl.reach.ssh.host import Host

OPENING_S = 30.0
OLDEST_API, NEWEST_API = (1, 40), (1, 47)  # Docker 19.03; what this code was written against
BASE = "http://host:2375"  # a name for the SDK; nothing is resolved or dialled

LOOK = """for s in "${DOCKER_HOST#unix://}" /var/run/docker.sock "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/docker.sock" \\
    /run/podman/podman.sock "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/podman/podman.sock"; do
    [ -S "$s" ] || continue
    if [ -w "$s" ]; then echo "open $s"; else echo "closed $s"; fi
done
command -v docker >/dev/null 2>&1 && echo "program docker"
exit 0
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to Docker's API."""

    kind: Literal["streamlocal", "dial-stdio", "sudo"]
    socket: str


def find(host: Host) -> Way | Missing:
    """The first way that opens: the socket itself, the docker program, the docker program as root."""
    lines = [line.split(" ", 1) for line in host.script(LOOK, deadline_s=30, again=True).text.splitlines()]
    opened = [path for kind, path in lines if kind == "open"]
    closed = [path for kind, path in lines if kind == "closed"]
    has_program = ["program", "docker"] in lines
    if not opened and not closed:
        return Missing("no Docker socket on the host (is Docker installed and running?)")
    if opened:
        try:
            host.link.unix_socket(opened[0]).close()
            return Way("streamlocal", opened[0])
        except paramiko.ChannelException as error:
            if has_program:
                return Way("dial-stdio", opened[0])
            return Missing(f"sshd refuses to lead to {opened[0]} ({error.text}) and there is no docker program")
    if not has_program:
        return Missing(f"{closed[0]} is not open to this user and there is no docker program")
    if host.power == "none":
        return Missing(f"{closed[0]} is not open to this user: add it to the docker group, or allow it sudo")
    return Way("sudo", closed[0])


class Docker:
    """Docker's API on one host: one pool of channels, whoever asks."""

    def __init__(self, host: Host, way: Way) -> None:
        self._pool = _Pool(lambda: _open(host, way), is_scarce=way.kind != "streamlocal")
        self._version = ""

    def client(self, deadline_s: float) -> docker.APIClient:
        """The SDK's client in the newest API version both sides know; answers must come on within `deadline_s`."""
        api: Any = docker.APIClient(base_url=BASE, version=self._version or _text(OLDEST_API), timeout=int(deadline_s))
        api.trust_env = False  # the operator's proxy is not on this way
        api.mount(BASE, _Adapter(self._pool))
        if not self._version:
            told = api.version(api_version=False)["ApiVersion"]
            self._version = _text(min(NEWEST_API, max(OLDEST_API, _numbers(told))))
            api._version = self._version
        return api


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _open(host: Host, way: Way) -> Stream:
    if way.kind == "streamlocal":
        return Stream(host.link.unix_socket(way.socket, OPENING_S), lambda: None)
    argv = ["docker", "-H", f"unix://{way.socket}", "system", "dial-stdio"]
    first = b""
    if way.kind == "sudo":
        argv, first = host.typed(argv)
    host.link.sessions.acquire()
    try:
        channel = host.link.session(shlex.join(argv), OPENING_S)
        if first:
            channel.sendall(first)
    except BaseException:
        host.link.sessions.release()
        raise
    return Stream(channel, host.link.sessions.release)


class Stream:
    """A channel that passes for a socket."""

    def __init__(self, channel: paramiko.Channel, release: Callable[[], None]) -> None:
        self._channel = channel
        self._release: Callable[[], None] | None = release

    def sendall(self, data: bytes) -> None:
        """Everything."""
        self._channel.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        """For each read and write."""
        self._channel.settimeout(seconds)

    def gettimeout(self) -> float | None:
        """As set."""
        return self._channel.gettimeout()

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        """What answers are read from; the channel closes when the last user is gone."""
        return io.BufferedReader(_Reader(self._channel), 65536)

    def is_idle(self) -> bool:
        """True while another request may be sent on it."""
        channel = self._channel
        return not channel.closed and not channel.eof_received and not channel.recv_ready()

    def shutdown(self, _how: int) -> None:
        """No more is written."""
        self._channel.shutdown_write()

    def close(self) -> None:
        """Ends the channel and frees its place."""
        self._channel.close()
        if self._release is not None:
            self._release()
            self._release = None


class _Reader(io.RawIOBase):
    """The bytes of a channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        super().__init__()
        self._channel = channel

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As many as there are."""
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Connection(urllib3.connection.HTTPConnection):
    """An HTTP connection on a channel."""

    def __init__(self, opener: Callable[[], Stream], timeout: Any) -> None:
        super().__init__("host", timeout=timeout)
        self._opener = opener

    def connect(self) -> None:
        """Opens the channel."""
        self.sock: Any = self._opener()

    @property
    def is_connected(self) -> bool:
        """True while it may be used again."""
        return self.sock is not None and self.sock.is_idle()


class _Pool(urllib3.HTTPConnectionPool):
    """Channels to Docker; scarce ones (each is a session of sshd) are few and waited for."""

    def __init__(self, opener: Callable[[], Stream], *, is_scarce: bool) -> None:
        super().__init__("host", maxsize=4, block=is_scarce)
        self._opener = opener

    def _new_conn(self) -> Any:
        return _Connection(self._opener, self.timeout.connect_timeout)


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends the SDK's requests through the pool."""

    def __init__(self, pool: _Pool) -> None:
        self._channels = pool
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        """The pool."""
        return self._channels

    def request_url(self, request: Any, proxies: Any) -> str:
        """The path alone."""
        return request.path_url

    def close(self) -> None:
        """The pool goes on serving others."""
