"""All replicas: follows the table, keeps their health, and chooses where a request goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dsctl.gateway.call import Call
from dsctl.gateway.keys import Secrets
from dsctl.gateway.replica import Replica, watch
from dsctl.gateway.split import divide, due
from dsctl.gateway.table import Row, Table

_log = logging.getLogger("dsctl.gateway")
RETRY_SHARE = 0.2  # of the requests in flight may be second tries after a wrong answer
RETRY_FLOOR = 3


class Fleet:
    """The replicas of the table in force. `on_change` runs whenever a choice may come out differently."""

    def __init__(self, secrets: Secrets, on_change: Callable[[], None]) -> None:
        self.replicas: dict[str, Replica] = {}
        self.leaving: list[Replica] = []  # removed from the table, still finishing streams
        self.retrying = 0
        self._secrets = secrets
        self._on_change = on_change
        self._watchers: dict[Replica, asyncio.Task[None]] = {}

    def apply(self, table: Table) -> None:
        """Follow a new table: new rows start, changed rows change, missing ones leave when their streams have ended."""
        rows = {row.name: row for row in table.replicas}
        for name, replica in list(self.replicas.items()):
            row = rows.get(name)
            if row is None or row.url != replica.row.url:
                del self.replicas[name]
                replica.is_removed = True
                self.leaving.append(replica)
            else:
                replica.row = row
                replica.is_drained = False
        for name, row in rows.items():
            if name not in self.replicas:
                self._start(row)
        _log.info(
            "replica table generation %d: %s", table.generation, ", ".join(f"{r.name}={r.state}" for r in rows.values())
        )
        self._on_change()

    def _start(self, row: Row) -> None:
        replica = Replica(row, self._on_change)
        self.replicas[row.name] = replica
        self._watchers[replica] = asyncio.create_task(watch(replica, lambda: self._secrets.replica_token))

    def tick(self) -> None:
        """50 ms passed on the gateway's own clock."""
        for replica in self.replicas.values():
            replica.health.tick()
        for replica in [*self.leaving]:
            replica.health.tick()
            if replica.inflight == 0:
                self.leaving.remove(replica)
                self._stop(replica)

    async def close(self) -> None:
        """Stop watching everybody."""
        for replica in list(self._watchers):
            self._stop(replica)

    def _stop(self, replica: Replica) -> None:
        task = self._watchers.pop(replica, None)
        if task is not None:
            task.cancel()
        replica.pool.close()

    @property
    def inflight(self) -> int:
        """Requests placed on any replica."""
        return sum(replica.inflight for replica in [*self.replicas.values(), *self.leaving])

    def may_retry(self) -> bool:
        """Whether one more second try after a wrong answer stays within the budget."""
        return self.retrying < max(RETRY_FLOOR, RETRY_SHARE * self.inflight)

    def candidates(self, call: Call) -> list[Replica]:
        """The replicas that may take this request now."""
        if call.gate:
            replica = self.replicas.get(call.gate)
            return [replica] if replica is not None and replica.health.is_ready else []
        return [replica for replica in self.replicas.values() if replica.takes_work]

    def choose(
        self, call: Call, avoid: dict[Replica, int], numerics: tuple[str, bool] | None = None, *, is_first: bool = False
    ) -> Replica | None:
        """The least loaded candidate that is not avoided in its present incarnation, of equal numerics if asked.

        A canary gets its share of the requests that begin (`is_first`); beyond that, only what nobody else can take.
        """
        ready = [
            replica
            for replica in self.candidates(call)
            if avoid.get(replica) != replica.incarnation and (numerics is None or replica.numerics == numerics)
        ]
        canaries, others = divide(ready)
        if canaries and others and is_first and (canary := due(canaries)) is not None:
            return canary
        return self._least(others or canaries)

    def _least(self, ready: list[Replica]) -> Replica | None:
        best: Replica | None = None
        best_load = (False, 0.0, 0)
        for replica in ready:
            share = replica.inflight_tokens / replica.row.weight if replica.row.weight else 0.0
            load = (replica.breaker.is_open, share, replica.served)
            if best is None or load < best_load:
                best, best_load = replica, load
        return best

    def has_equal(self, numerics: tuple[str, bool], other_than: Replica | None) -> bool:
        """Whether some other replica of these numerics is in the table; it need not be ready now."""
        return any(
            replica is not other_than and replica.row.state == "active" and replica.numerics == numerics
            for replica in self.replicas.values()
        )
