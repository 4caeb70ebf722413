"""One replica as the gateway sees it: its row of the table, its health, its connections and what runs on it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from dsctl.gateway.events import decode_progress
from dsctl.gateway.health import Health, State
from dsctl.gateway.settings import CONNECT_S, DEAD_TICKS, MAX_LINE
from dsctl.gateway.split import Split
from dsctl.gateway.table import Row
from dsctl.gateway.tally import Tally
from dsctl.gateway.upstream import Pool
from engine.spec.attempt import PROGRESS_PATH

if TYPE_CHECKING:
    from dsctl.gateway.attempt import Attempt

RECONNECT_S = 0.1
RETRY_S = 2.0
BREAKER_WRONG = 3
BREAKER_FIRST_S = 1.0
BREAKER_LONGEST_S = 15.0
_log = logging.getLogger("dsctl.gateway")


class Breaker:
    """Steers work away from a replica that keeps answering wrongly (5xx, malformed) while it lives.

    Three wrong answers in a row shun it for a second, each further one for twice as long; a token clears it. 4xx, 429
    and 503 are no wrong answers. A shunned replica is still used when there is no other.
    """

    __slots__ = ("_shunned_until", "_wrong")

    def __init__(self) -> None:
        self._wrong = 0
        self._shunned_until = 0.0

    @property
    def is_open(self) -> bool:
        """Shunned now."""
        return self._wrong >= BREAKER_WRONG and time.monotonic() < self._shunned_until

    def wrong(self) -> None:
        """It answered wrongly."""
        self._wrong += 1
        pause = min(BREAKER_LONGEST_S, BREAKER_FIRST_S * 2.0 ** max(0, self._wrong - BREAKER_WRONG))
        self._shunned_until = time.monotonic() + pause

    def right(self) -> None:
        """It answered."""
        self._wrong = 0


class Replica:
    """Runtime state of one row. `incarnation` rises when a dead replica comes back."""

    def __init__(self, row: Row, on_change: Callable[[], None]) -> None:
        self.row = row
        self.pool = Pool(row.url)
        self.host = row.host
        self.health = Health(self._changed)
        self.attempts: set[Attempt] = set()
        self.incarnation = 1
        self.is_drained = False  # by the admin route, until the table says something newer
        self.is_removed = False
        self.inflight = 0  # requests placed here
        self.inflight_tokens = 0
        self.served = 0
        self.deaths = 0
        self.tally = Tally()  # of clients' requests
        self.gate_tally = Tally()  # of the control path's own
        self.split = Split()
        self.breaker = Breaker()
        self.wants_reconnect = asyncio.Event()
        self._on_change = on_change
        self._was_dead = False

    @property
    def takes_work(self) -> bool:
        """Healthy, active, and not asked to drain."""
        return (
            self.row.state == "active"
            and self.row.weight > 0
            and not self.is_drained
            and not self.is_removed
            and self.health.is_ready
        )

    @property
    def numerics(self) -> tuple[str, bool]:
        """numerics_id, and whether the replica calls itself exact."""
        line = self.health.progress
        return (line.numerics_id, line.exact) if line is not None else ("", False)

    @property
    def shown_state(self) -> str:
        """Health in the words of /-/status."""
        line = self.health.progress
        if self.health.state == "healthy" and line is not None and line.state in ("starting", "restarting"):
            return "starting"
        return self.health.state

    def _changed(self, state: State, cause: str) -> None:
        _log.info("replica %s is %s: %s", self.row.name, state, cause)
        if state == "dead":
            self.deaths += 1
            self._was_dead = True
            self.wants_reconnect.set()
            self.pool.close()
            from dsctl.gateway.attempt import Ending

            for attempt in list(self.attempts):
                attempt.end(Ending("broken", f"replica {self.row.name} is dead: {cause}"))
        elif state == "healthy" and self._was_dead:
            self._was_dead = False
            self.incarnation += 1
        self._on_change()


class ProgressReader:
    """The receiver of one progress stream."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._rest = b""
        self.cause = ""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The stream began, or was refused."""
        if status != 200:
            self.on_broken(f"the progress stream was answered {status}")

    def on_body(self, data: bytes) -> None:
        """Lines came; only the newest counts."""
        data = self._rest + data
        *blocks, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_LINE:
            self.on_broken("a progress line without an end")
            return
        lines = [block for block in blocks if block.startswith(b"data: ")]
        if not lines:
            return
        try:
            self._replica.health.heard(decode_progress(lines[-1][6:]))
        except (msgspec.DecodeError, ValueError) as error:
            self.on_broken(f"a progress line that cannot be read: {error}")

    def on_complete(self) -> None:
        """The stream ended."""
        self.on_broken("the progress stream ended")

    def on_broken(self, cause: str) -> None:
        """The connection ended."""
        self.cause = cause
        self._replica.health.doubt(cause)
        self._replica.wants_reconnect.set()


async def watch(replica: Replica, token: Callable[[], str]) -> None:
    """Keep reading a replica's progress stream until the replica is removed."""
    shown = ""
    while not replica.is_removed:
        cause = await _watch_once(replica, token())
        state = replica.health.state
        is_told = state == "dead" and cause == replica.health.cause
        if cause != shown and not is_told and state in ("starting", "dead"):
            replica.health.cause = cause
            _log.info("replica %s: %s", replica.row.name, cause)
        shown = cause
        # A stream that broke is opened again at once: a refusal tells a death from a hiccup.
        await asyncio.sleep(RECONNECT_S if replica.health.state in ("starting", "dead") else 0.0)


async def _watch_once(replica: Replica, token: str) -> str:
    replica.wants_reconnect.clear()
    try:
        connection = await replica.pool.connect(CONNECT_S)
    except TimeoutError:
        return "connecting took too long"
    except OSError as error:
        replica.health.refused(f"cannot connect: {error.strerror or error}")
        return f"cannot connect: {error.strerror or error}"
    reader = ProgressReader(replica)
    connection.send(reader, request_head("GET", PROGRESS_PATH, replica.host, token))
    try:
        await _until_broken(replica)
    finally:
        connection.abort()
    return reader.cause or replica.health.cause


async def _until_broken(replica: Replica) -> None:
    """Return when the stream broke, or when it has been silent for so long that a new connection may do better."""
    while True:
        try:
            async with asyncio.timeout(RETRY_S):
                await replica.wants_reconnect.wait()
        except TimeoutError:
            if replica.health.silent < DEAD_TICKS:
                continue
        return


def request_head(method: str, path: str, host: str, token: str, extra: str = "") -> bytes:
    """The head of a request to a replica; `extra` are further header lines, each with its line end."""
    bearer = f"authorization: Bearer {token}\r\n" if token else ""
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{bearer}{extra}\r\n".encode("latin-1")
