"""Reverse forwarding: a loopback port on the host whose connections end at an address on this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import paramiko

from dsctl.base.errors import DsctlError
from dsctl.reach.ssh.link import Link


@contextmanager
def reverse(link: Link, target: tuple[str, int]) -> Generator[int, None, None]:
    """Yields the port on the host's 127.0.0.1; DsctlError when sshd does not allow it."""
    transport = link.transport()

    def taken(channel: paramiko.Channel, _origin: object, _server: object) -> None:
        threading.Thread(target=_join, args=(channel, target), daemon=True).start()

    try:
        port = transport.request_port_forward("127.0.0.1", 0, taken)
    except paramiko.SSHException as error:
        raise DsctlError(
            f"{link.route.name}: sshd does not forward a port", why=str(error), hint="AllowTcpForwarding yes"
        ) from error
    try:
        yield port
    finally:
        with suppress(paramiko.SSHException, EOFError, OSError):
            transport.cancel_port_forward("127.0.0.1", port)


def _join(channel: paramiko.Channel, target: tuple[str, int]) -> None:
    try:
        near = socket.create_connection(target, timeout=10)
    except OSError:
        channel.close()
        return
    near.settimeout(None)
    channel.settimeout(None)
    back = threading.Thread(target=_copy, args=(near, channel), daemon=True)
    back.start()
    _copy(channel, near)
    back.join()
    channel.close()
    near.close()


def _copy(source: Any, sink: Any) -> None:
    with suppress(OSError, EOFError, paramiko.SSHException):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError, EOFError, paramiko.SSHException):
        sink.shutdown(socket.SHUT_WR)
