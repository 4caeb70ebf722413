"""The gateway's memory: settings, secrets, replicas, sessions in flight and held, and the clock that minds them."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from dsctl.gateway.asgi import ClientConnection
from dsctl.gateway.fleet import Fleet
from dsctl.gateway.keys import Secrets
from dsctl.gateway.ledger import Ledger
from dsctl.gateway.metrics import Metrics
from dsctl.gateway.refusal import RefusedError
from dsctl.gateway.session import Session
from dsctl.gateway.settings import SESSION_TICKS, TICK_S, Settings
from dsctl.gateway.table import TableFile

_log = logging.getLogger("dsctl.gateway")
SOON_S = 0.05
RATE_S = 10.0


class Desk:
    """One gateway's state. Sessions register here; the tick reads files, judges health and looks at every session."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.secrets = Secrets(settings.state_dir)
        self.table = TableFile(settings.state_dir)
        self.fleet = Fleet(self.secrets, self.wake_all)
        self.sessions: dict[Session, ClientConnection] = {}
        self.held: set[Session] = set()
        self.admitted = 0  # requests let in and not ended, their bodies read or not
        self.body_bytes = 0  # of those requests
        self.is_draining = False
        self.ledger = Ledger(settings.ledger)
        self.metrics = Metrics(self)
        self.done = 0  # requests served since the last look
        self._done_rate = 0.0  # requests per second, smoothed over RATE_S
        self._rate_at = time.monotonic()

    @property
    def token(self) -> str:
        """The bearer token for replicas."""
        return self.secrets.replica_token

    def load(self) -> None:
        """Read the state directory for the first time; the event loop must run."""
        self.secrets.poll()
        self._poll_table()

    def hold(self, session: Session, *, soon: bool) -> None:
        """A session waits for a replica; raises RefusedError when too many do. `soon`: look again shortly."""
        if not session.is_held:
            if len(self.held) >= self.settings.max_held:
                self.metrics.shed["held_limit"] += 1
                raise RefusedError(
                    503, "overloaded", "too many requests wait for a replica", retry_after=self.retry_after()
                )
            session.is_held = True
            self.held.add(session)
        if soon:
            asyncio.get_running_loop().call_later(SOON_S, session.wake)

    def release(self, session: Session) -> None:
        """A session waits no more."""
        if session.is_held:
            session.is_held = False
            self.held.discard(session)

    def wake_all(self) -> None:
        """Replicas changed: whoever waits looks again, and so does whoever may now move."""
        for session in [*self.sessions]:
            session.wake()

    def retry_after(self) -> int:
        """Seconds until what is in flight will likely have drained at the present pace, ±20 %, within 1…120."""
        waiting = len(self.held) + len(self.sessions)
        seconds = waiting / self._done_rate if self._done_rate > 0.01 else 5.0
        return max(1, min(120, round(seconds * random.uniform(0.8, 1.2))))

    def _measure_pace(self) -> None:
        now = time.monotonic()
        passed = max(1e-3, now - self._rate_at)
        share = min(1.0, passed / RATE_S)
        self._done_rate += share * (self.done / passed - self._done_rate)
        self.done, self._rate_at = 0, now

    def stop_all(self) -> None:
        """The gateway must end now: every session says so to its client."""
        for session in list(self.sessions):
            session.stop(
                RefusedError(503, "gateway_stopping", "the gateway is stopping; send the request again", retry_after=1)
            )

    async def run(self) -> None:
        """The clock; ends when cancelled."""
        loop = asyncio.get_running_loop()
        count = 0
        due = loop.time()
        while True:
            due = max(due + TICK_S, loop.time())
            await asyncio.sleep(due - loop.time())
            self.metrics.loop_lag = max(0.0, loop.time() - due)
            count += 1
            self.fleet.tick()
            self.ledger.flush()
            if count % SESSION_TICKS == 0:
                self._measure_pace()
                self._look_at_sessions()
                self._poll_table()
            if count % (SESSION_TICKS * 5) == 0:
                self.secrets.poll()

    def _poll_table(self) -> None:
        table = self.table.poll()
        if table is not None:
            self.fleet.apply(table)

    def _look_at_sessions(self) -> None:
        now = time.monotonic()
        for session, connection in list(self.sessions.items()):
            if session.tick(now, self.settings.write_deadline_s):
                _log.warning("request %s: the client does not read; cut", session.call.id)
                self.metrics.shed["slow_reader"] += 1
                connection.cut()
                session.leave()
