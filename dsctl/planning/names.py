"""The lowest free name for a new copy, and the first free port on its host."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from dsctl.base.missing import Missing
from dsctl.planning.fleetseen import Seen, number


class Names:
    """r1, r2, … without those that are taken; a name given back comes first again."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {number(name) for name in taken}
        self._returned: list[int] = []
        self._next = 1

    def take(self) -> str:
        """The lowest free one."""
        if self._returned:
            return f"r{heappop(self._returned)}"
        while self._next in self._taken:
            self._next += 1
        self._next += 1
        return f"r{self._next - 1}"

    def give(self, name: str) -> None:
        """It is free again."""
        heappush(self._returned, number(name))


class Ports:
    """Ports of every host from `first` on that nobody listens on and no container of any project claims."""

    def __init__(self, seen: Seen, first: int) -> None:
        self._seen, self._first = seen, first
        self._next: dict[str, int] = {}
        self._used: dict[str, set[int]] = {}

    def take(self, host: str) -> int:
        """The next free one."""
        used = self._used.get(host)
        if used is None:
            used = self._used[host] = self._taken(host)
        port = self._next.get(host, self._first)
        while port in used:
            port += 1
        self._next[host] = port + 1
        return port

    def _taken(self, host: str) -> set[int]:
        facts = self._seen.facts(host)
        used = set[int]() if isinstance(facts.ports, Missing) else set(facts.ports)
        for container in () if isinstance(facts.containers, Missing) else facts.containers:
            if container.label("port").isdigit():
                used.add(int(container.label("port")))
        return used
