"""One sshd for all tests of the SSH way; a test that breaks connections breaks only its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsctl.reach.ssh.host import Host
from dsctl.reach.ssh.link import Link
from dsctl.reach.ssh.route import Route
from tests.dsctl.reach.ssh import server
from tests.dsctl.reach.ssh.server import Sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server that this test has for itself."""
    if server.program() is None:
        pytest.skip("openssh-server is not installed")
    running = server.start(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def route(sshd: Sshd) -> Route:
    """The way to it."""
    return Route(
        "near", "127.0.0.1", sshd.port, sshd.user, f"[127.0.0.1]:{sshd.port}", (sshd.key,), True, "",
        (sshd.known_hosts,),
    )  # fmt: skip


@pytest.fixture
def opened(route: Route) -> Iterator[Callable[..., Host]]:
    """opened(**changes): a host on a connection of its own, closed after the test."""
    hosts: list[Host] = []

    def make(through: Link | None = None, **changes: object) -> Host:
        hosts.append(Host(Link(replace(route, **changes), through)))  # pyright: ignore[reportArgumentType]
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(opened: Callable[..., Host]) -> Host:
    """The server as a host."""
    return opened()
