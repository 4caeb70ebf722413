"""All hosts of a command at once: their connections, shared jump hosts, and work done on every one in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import paramiko

from dsctl.base.errors import DsctlError
from dsctl.base.secret import Secret
from dsctl.config.inventory import Entry
from dsctl.reach.ssh.host import Host
from dsctl.reach.ssh.link import Link
from dsctl.reach.ssh.route import Resolver, Route

T = TypeVar("T")
AT_ONCE = 30


@dataclass(slots=True)
class Ways:
    """Hosts by name, each opened once; a jump host's connection is shared by all behind it."""

    resolver: Resolver
    password: Secret | None = None
    _hosts: dict[str, Host] = field(default_factory=lambda: dict[str, Host]())
    _links: dict[Route, Link] = field(default_factory=lambda: dict[Route, Link]())
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def host(self, entry: Entry) -> Host:
        """The host of an inventory entry; nothing is connected yet."""
        with self._lock:
            known = self._hosts.get(entry.name)
        if known is not None:
            return known
        route = self.resolver.route(entry)  # asks ssh, so not under the lock
        with self._lock:
            return self._hosts.setdefault(entry.name, Host(self._link(route), self.password))

    def _link(self, route: Route) -> Link:
        if route not in self._links:
            self._links[route] = Link(route, self._link(route.jump) if route.jump else None)
        return self._links[route]

    def transport_before(self, route: Route) -> paramiko.Transport | None:
        """The connection to the jump host of a route; None when there is none."""
        if route.jump is None:
            return None
        with self._lock:
            link = self._link(route.jump)
        return link.transport()

    def close(self) -> None:
        """Ends every connection."""
        for link in self._links.values():
            link.close()

    def __enter__(self) -> Ways:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def everywhere(items: Sequence[T], work: Callable[[T], object], at_once: int = AT_ONCE) -> list[object | DsctlError]:
    """`work` on every item in parallel; an item's DsctlError stands in its place, so one host never hides another."""

    def guarded(item: T) -> object | DsctlError:
        try:
            return work(item)
        except DsctlError as error:
            return error

    if not items:
        return []
    with ThreadPoolExecutor(min(at_once, len(items)), thread_name_prefix="host") as pool:
        return list(pool.map(guarded, items))


def failures(names: Iterable[str], results: Iterable[object]) -> Mapping[str, DsctlError]:
    """The errors among results, by name."""
    return {name: found for name, found in zip(names, results, strict=True) if isinstance(found, DsctlError)}
