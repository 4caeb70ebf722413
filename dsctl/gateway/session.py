"""The life of one admitted request: placed, tried, continued elsewhere when a replica fails, ended exactly once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from dsctl.gateway.attempt import Attempt, Ending
from dsctl.gateway.call import Call
from dsctl.gateway.events import History
from dsctl.gateway.refusal import ClientGoneError, RefusedError
from dsctl.gateway.replica import Replica
from dsctl.gateway.settings import (
    CONNECT_S,
    FRUITLESS_LIMIT,
    HEARTBEAT_S,
    NUMERICS_PATIENCE_S,
    QUIET_HEAD_S,
    QUIET_STREAM_S,
    SESSION_TICKS,
    TICK_S,
)
from dsctl.gateway.sink import StreamSink, WholeSink
from dsctl.gateway.tally import Tally
from engine.spec.attempt import Usage

if TYPE_CHECKING:
    from dsctl.gateway.desk import Desk

QUIET_HEAD_TICKS = int(QUIET_HEAD_S / (TICK_S * SESSION_TICKS))
QUIET_STREAM_TICKS = int(QUIET_STREAM_S / (TICK_S * SESSION_TICKS))
DEADLINE_GRACE_S = 1.0
PAUSE_BETWEEN_S = 0.1  # before replicas that failed this request are tried again


class Session:
    """One request. Everything that happens to it sets a flag and wakes its one loop."""

    def __init__(self, desk: Desk, call: Call, sink: StreamSink | WholeSink) -> None:
        self.call = call
        self.sink = sink
        self.history = History()
        self.attempts: list[tuple[str, str]] = []  # (replica, how it ended), for the ledger
        self.continuations: list[str] = []  # "exact" or "valid"
        self.usage: Usage | None = None
        self.began = time.monotonic()
        self.first_token = 0.0
        self.last_token = 0.0
        self.longest_gap = 0.0
        self.is_gone = False
        self.is_held = False
        self.stop_cause: RefusedError | None = None  # set from outside: deadline, shutdown
        self.heartbeat_due = False
        self._desk = desk
        self._attempt: Attempt | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._avoid: dict[Replica, int] = {}
        self._busy: Ending | None = None
        self._fruitless = 0
        self._trouble_since = 0.0
        self._is_retry = False
        self._placed = 0.0  # when the present attempt was given to its replica
        self._numerics: tuple[str, bool] | None = None  # of the replica whose tokens the client has

    async def run(self) -> None:
        """Serve until done; raises RefusedError when it cannot be and ClientGoneError when nobody listens any more."""
        try:
            while True:
                replica = await self._place()
                ending = await self._try(replica)
                if ending.kind == "done" and ending.usage is not None:
                    self.usage = ending.usage
                    await self.sink.finish(ending.usage)
                    return
                self._judge(replica, ending)
        finally:
            if self._attempt is not None:
                self._attempt.abort()

    def wake(self) -> None:
        """Let the loop look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def leave(self) -> None:
        """The client has gone: the replica is told at once, whatever the loop waits for."""
        self.is_gone = True
        if self._attempt is not None:
            self._attempt.abort()
        self.wake()

    def stop(self, cause: RefusedError) -> None:
        """End it with an error as soon as the loop looks."""
        self.stop_cause = cause
        self.wake()

    def tick(self, now: float, write_deadline_s: float) -> bool:
        """200 ms passed; True when the client must be cut because it does not read."""
        call, sink, attempt = self.call, self.sink, self._attempt
        if sink.writing_since and now - sink.writing_since > write_deadline_s:
            return True
        # A running request's deadline is its replica's first: what there is by then is the answer.
        grace = 0.0 if self.is_held else DEADLINE_GRACE_S
        if call.deadline and now > call.deadline + grace and self.stop_cause is None:
            self.stop(RefusedError(503, "deadline_exceeded", "the request's deadline has passed", retry_after=1))
        if call.streams and not sink.writing_since and now - sink.last_write > HEARTBEAT_S:
            self.heartbeat_due = True
            self.wake()
        elif self.is_held:
            self.wake()
        if attempt is not None and not attempt.is_paused:
            attempt.quiet_ticks += 1
            if attempt.quiet_ticks > (QUIET_STREAM_TICKS if attempt.has_head else QUIET_HEAD_TICKS):
                attempt.end(Ending("broken", "the stream fell silent while its replica lives", blame=True))
        return False

    def _check(self) -> None:
        if self.is_gone:
            raise ClientGoneError
        if self.stop_cause is not None:
            raise self.stop_cause

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
        self._waiter = None

    async def _beat(self) -> None:
        self.heartbeat_due = False
        await self.sink.heartbeat()

    async def _place(self) -> Replica:
        """The replica for the next attempt; holds the request while there is none."""
        since = 0.0
        try:
            while True:
                self._check()
                replica = self._choose(since)
                if replica is not None:
                    self._desk.metrics.queue_wait.observe(time.monotonic() - since if since else 0.0)
                    return replica
                since = since or time.monotonic()
                if self.heartbeat_due:
                    await self._beat()
                    continue
                self._hold(since)
                await self._wait()
        finally:
            self._desk.release(self)

    def _choose(self, since: float) -> Replica | None:
        fleet = self._desk.fleet
        if self._is_retry and not fleet.may_retry():
            return None
        if not self.history.started or self._numerics is None:
            return fleet.choose(self.call, self._avoid, is_first=not self.attempts)
        replica = fleet.choose(self.call, self._avoid, self._numerics)
        waited = time.monotonic() - since if since else 0.0
        if replica is None and (waited > NUMERICS_PATIENCE_S or not fleet.has_equal(self._numerics, None)):
            replica = fleet.choose(self.call, self._avoid)
        return replica

    def _hold(self, since: float) -> None:
        """Decide whether to go on waiting; raises RefusedError when not."""
        desk, call = self._desk, self.call
        alive = bool(desk.fleet.candidates(call))
        self._trouble_since = self._trouble_since or since
        if alive and self._busy is not None and not self.history.started:
            raise self._overloaded(self._busy)
        if call.gate and not alive:
            raise RefusedError(503, "gated_replica_not_ready", f"replica {call.gate} is not ready", retry_after=1)
        if alive and self._avoid and time.monotonic() - since >= PAUSE_BETWEEN_S:
            if self._fruitless >= FRUITLESS_LIMIT:
                raise RefusedError(503, "no_replica_could_serve", "every replica failed this request", retry_after=5)
            self._avoid.clear()
            self._busy = None
        if time.monotonic() - self._trouble_since > desk.settings.hold_s:
            raise RefusedError(503, "no_replica", "no replica is ready", retry_after=desk.retry_after())
        desk.hold(self, soon=alive)

    def _overloaded(self, busy: Ending) -> RefusedError:
        retry_after = max(busy.retry_after or 1, self._desk.retry_after())
        refusal = RefusedError(busy.status, "overloaded", "every replica is at its limit", retry_after=retry_after)
        if busy.body.startswith(b'{"error"'):
            refusal.raw = busy.body
        return refusal

    async def _try(self, replica: Replica) -> Ending:
        """One attempt, from connecting to its ending."""
        replica.inflight += 1
        replica.inflight_tokens += self.call.cost
        replica.served += 1
        self._desk.fleet.retrying += self._is_retry
        self._placed = time.monotonic()
        try:
            ending = await self._start(replica)
            if ending.kind == "stale":  # the idle connection had been closed: not the replica's fault
                replica.pool.close()
                ending = await self._start(replica)
            self._tally(replica).ended(ending)
            return ending
        finally:
            replica.inflight -= 1
            replica.inflight_tokens -= self.call.cost
            self._desk.fleet.retrying -= self._is_retry

    def _tally(self, replica: Replica) -> Tally:
        return replica.gate_tally if self.call.gate else replica.tally

    async def _start(self, replica: Replica) -> Ending:
        connection = replica.pool.take()
        if connection is None:
            try:
                connection = await replica.pool.connect(CONNECT_S)
            except TimeoutError:
                return Ending("broken", "connecting took too long")
            except OSError as error:
                replica.health.refused(f"cannot connect: {error.strerror or error}")
                return Ending("broken", f"cannot connect: {error.strerror or error}")
        if self.is_gone:
            replica.pool.put(connection)
            raise ClientGoneError
        if self.history.started:
            await self._note_continuation(replica)
        attempt = Attempt(replica, len(self.attempts) + 1, self.history, self.sink, self.wake)
        attempt.on_token = self._count
        self.attempts.append((replica.row.name, ""))
        self._attempt = attempt
        resume = self.history.resume() if self.history.started else None
        attempt.start(connection, self.call.request(replica.host, self._desk.token, attempt.number, resume))
        ending = await self._follow(attempt)
        self.attempts[-1] = (replica.row.name, ending.cause or ending.kind)
        return ending

    async def _note_continuation(self, replica: Replica) -> None:
        numerics = replica.numerics
        kind = "exact" if numerics == self._numerics and numerics[1] else "valid"
        self.continuations.append(kind)
        self._desk.metrics.continuations[kind] += 1
        if kind == "valid":
            await self.sink.label_valid()

    async def _follow(self, attempt: Attempt) -> Ending:
        """Hand data on until the attempt has ended and nothing waits."""
        sink = self.sink
        while True:
            if sink.has_output and (attempt.ending is None or attempt.ending.kind != "done"):
                await sink.flush()
                continue
            if self.is_gone or self.stop_cause is not None:
                attempt.abort()
                self._check()
            if attempt.ending is not None:
                return attempt.ending
            if attempt.is_paused:
                attempt.resume()
            if attempt.lost and self._can_move(attempt.replica):
                attempt.abort()
                return Ending("broken", "its core was lost")
            if self.heartbeat_due:
                await self._beat()
            else:
                await self._wait()

    def _can_move(self, replica: Replica) -> bool:
        numerics = replica.numerics
        avoid = {**self._avoid, replica: replica.incarnation}
        wanted = numerics if self.history.started else None
        return self._desk.fleet.choose(self.call, avoid, wanted) is not None

    def _count(self, tokens: int) -> None:
        """Tokens came: time them."""
        now = time.monotonic()
        metrics = self._desk.metrics
        if not self.first_token:
            self.first_token = now
            metrics.ttft.observe(now - self.began)
            if self._attempt is not None:
                self._tally(self._attempt.replica).first_token(now - self._placed)
        else:
            gap = now - self.last_token
            metrics.itl.observe(gap)
            self.longest_gap = max(self.longest_gap, gap)
        self.last_token = now
        metrics.tokens += tokens
        self._fruitless = 0
        self._trouble_since = 0.0
        if self._is_retry:  # it has succeeded: the budget is for tries
            self._is_retry = False
            self._desk.fleet.retrying -= 1
        if self._attempt is not None:
            self._numerics = self._attempt.replica.numerics
            self._attempt.replica.breaker.right()

    def _judge(self, replica: Replica, ending: Ending) -> None:
        """What an ending that is not success means for the next attempt; raises RefusedError when there is none."""
        metrics = self._desk.metrics
        if ending.kind in ("refused", "failed"):
            raise _final(ending)
        self._avoid[replica] = replica.incarnation
        if ending.kind == "busy":
            self._busy = ending
            metrics.retries["busy"] += 1
            return
        self._is_retry = ending.blame
        if ending.blame:
            replica.breaker.wrong()
        if self._attempt is not None and self._attempt.ending is ending:  # it reached a replica, and may be why it died
            self._fruitless += 1
        metrics.retries["continued" if self.history.started else "unstarted"] += 1
        if self._fruitless > FRUITLESS_LIMIT:
            raise RefusedError(503, "no_replica_could_serve", "every replica failed this request", retry_after=5)


def _final(ending: Ending) -> RefusedError:
    """The replica's own no, passed on; nothing above 503 leaves this house."""
    if ending.failure is not None:
        status = ending.failure.status if ending.failure.status < 500 else 503
        return RefusedError(
            status, ending.failure.code, ending.failure.message, retry_after=1 if status == 503 else None
        )
    refusal = RefusedError(ending.status, "refused", "the replica refused the request", retry_after=ending.retry_after)
    if ending.body.startswith(b"{"):
        refusal.raw = ending.body
    return refusal
