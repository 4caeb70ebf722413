"""Opening one SSH connection: the host proves its key first, then a key of ours logs in."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from dsctl.base.errors import DsctlError, PreflightError
from dsctl.reach.ssh import knownhosts
from dsctl.reach.ssh.route import Route

CONNECT_S = 10.0
GREETING_S = 60.0  # a slow host is not a dead one
TRIES = 10  # sshd drops connections at random while too many log in at once
KEEPALIVE_S = 10
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it says is in our errors
MOST_KEYS = 6  # a server's usual MaxAuthTries
STARTS = threading.BoundedSemaphore(30)  # logins under way at one moment
STARTS_THROUGH = threading.BoundedSemaphore(8)  # the same through a jump host


class UnreachableError(DsctlError):
    """A host that does not let us in, or does not answer; nothing is ever done to it for that."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key a host showed."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """SHA256:…"""
        return knownhosts.fingerprint(self.blob)


def connect(route: Route, through: paramiko.Transport | None, *, login: bool = True) -> paramiko.Transport:
    """A connection whose host key is verified and, unless `login` is False, whose user is logged in.

    UnreachableError when the host does not answer or refuses every key; PreflightError when its key is not trusted.
    """
    why = ""
    for turn in range(TRIES):
        if turn:
            time.sleep(random.uniform(0.2, 1.0) * min(turn, 5))
        with STARTS_THROUGH if through else STARTS:
            try:
                transport = _greet(route, through)
            except (TimeoutError, OSError) as error:
                raise UnreachableError(
                    f"{route.name}: no answer from {route.address} port {route.port}", why=_words(error),
                    hint=f"ssh {route.name}",
                ) from error  # fmt: skip
            except (paramiko.SSHException, EOFError) as error:
                why = _words(error)
                continue
            try:
                if login:
                    verify(route, shown_key(transport))
                    _log_in(route, transport)
            except BaseException:
                transport.close()
                raise
            transport.set_keepalive(KEEPALIVE_S)
            return transport
    raise UnreachableError(f"{route.name}: {route.address} ends every connection before the login", why=why,
                           hint=f"ssh -v {route.name}")  # fmt: skip


def shown_key(transport: paramiko.Transport) -> HostKey:
    """The key the host has proved to have."""
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def verify(route: Route, key: HostKey) -> None:
    """PreflightError unless a file of known hosts has exactly this key for the host."""
    found = knownhosts.judge(knownhosts.read(route.known_hosts), route.known_as, key.kind, key.blob)
    if found.verdict == "known":
        return
    if found.verdict == "unknown":
        also = "a certificate authority is named for it, which dsctl does not check; " if found.has_authority else ""
        raise PreflightError(
            f"{route.name}: the {key.kind} key of {route.known_as} is not known: {key.fingerprint}",
            why=f"{also}compare it with what the host itself says: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub",
            hint=f"dsctl hosts trust {route.name} --fingerprint {key.fingerprint}",
        )
    said = "has been revoked in" if found.verdict == "revoked" else "is not the one in"
    raise PreflightError(
        f"{route.name}: the {key.kind} key of {route.known_as} {said} {found.place}: {key.fingerprint}",
        why="somebody may be listening in, or the host was installed anew; nothing was sent to it",
        hint=f"if the host is new, remove that line, then dsctl hosts trust {route.name} --fingerprint …",
    )


def _greet(route: Route, through: paramiko.Transport | None) -> paramiko.Transport:
    """Exchanges keys, asking first for the kinds of host key that are known."""
    if through is None:
        sock: Any = socket.create_connection((route.address, route.port), timeout=CONNECT_S)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        target = (route.address, route.port)
        sock = through.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=GREETING_S)
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        transport.banner_timeout = GREETING_S
        transport.auth_timeout = GREETING_S
        transport.channel_timeout = GREETING_S
        wanted = knownhosts.kinds(knownhosts.read(route.known_hosts), route.known_as)
        options = transport.get_security_options()
        options.key_types = sorted(options.key_types, key=lambda kind: _rank(kind, wanted))
        transport.start_client(timeout=GREETING_S)
    except BaseException:
        transport.close()
        raise
    return transport


def _rank(kind: str, wanted: list[str]) -> int:
    family = "ssh-rsa" if kind.startswith("rsa-sha2-") else kind
    return wanted.index(family) if family in wanted else len(wanted)


def _log_in(route: Route, transport: paramiko.Transport) -> None:
    tried: list[str] = []
    with _Agent(route.agent) as agent:
        for named, key in _keys(route, agent, tried):
            if len(tried) >= MOST_KEYS:
                break
            tried.append(named)
            try:
                transport.auth_publickey(route.user, key)
            except paramiko.BadAuthenticationType as error:
                raise _refused(route, tried, f"the host only takes: {', '.join(error.allowed_types)}") from error
            except paramiko.AuthenticationException:
                continue
            except (paramiko.SSHException, EOFError) as error:
                raise _refused(route, tried, _words(error)) from error
            if transport.is_authenticated():
                return
    raise _refused(route, tried, "")


def _refused(route: Route, tried: list[str], why: str) -> UnreachableError:
    told = f"tried: {', '.join(tried)}" if tried else "there is no key to try: no agent, no identity file"
    return UnreachableError(
        f"{route.name}: {route.user}@{route.address} does not let us in",
        why="\n".join(part for part in (told, why) if part),
        hint=f"ssh-copy-id {route.user}@{route.name}, or name the user and the key in the inventory",
    )


def _keys(route: Route, agent: _Agent, tried: list[str]) -> Iterator[tuple[str, Any]]:
    """The keys to try in turn: files first when only they may be used, else the agent's first, as ssh does."""
    blobs = {blob for path in route.identities if (blob := _public(path))}
    held = [key for key in agent.get_keys() if not route.only_identities or key.asbytes() in blobs]
    for key in held:
        yield f"{key.comment or key.get_name()} (agent)", key
    for path in route.identities:
        if not path.is_file():
            continue
        try:
            yield str(path), paramiko.PKey.from_path(path)
        except (TypeError, paramiko.PasswordRequiredException):  # TypeError: how cryptography says it
            tried.append(f"{path} (has a passphrase: ssh-add {path})")
        except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
            tried.append(f"{path} ({_words(error)})")


def _public(path: Path) -> bytes:
    """The public half that lies beside a private key; empty when there is none."""
    import base64

    try:
        return base64.b64decode(path.with_name(path.name + ".pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""


class _Agent(AgentSSH):
    """The keys of the agent at one socket; none when nobody answers there."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def __enter__(self) -> _Agent:
        if self._path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT_S)
                sock.connect(self._path)
                inner: Any = self
                inner._connect(sock)
            except (OSError, paramiko.SSHException):
                sock.close()
        return self

    def __exit__(self, *_: object) -> None:
        inner: Any = self
        inner._close()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
