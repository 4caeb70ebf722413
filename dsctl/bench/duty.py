"""The work of one load worker: its share of the schedule, its requests in flight, its rows, its beat and its end."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import gevent
import msgspec
from gevent.event import Event

from dsctl.bench import loads
from dsctl.bench.answer import Answer
from dsctl.bench.connection import Connections
from dsctl.bench.exchange import Abandoned, Exchange, Sender, head
from dsctl.bench.loads import Arrival
from dsctl.bench.probe import Probe
from dsctl.bench.progress import Beat, Ended
from dsctl.bench.records import FAILED, Record, encode
from dsctl.bench.rowing import record_of
from dsctl.bench.workload import Request, Writer

if TYPE_CHECKING:
    from dsctl.bench.plan import Plan

PAUSE_S = 0.1  # a closed user waits this long after a failure: a server that refuses at once is not to be flooded
SPREAD, SPREAD_S = 0.6, 10.0  # users begin over this part of the warm-up, and over at most so many seconds
LATEST = 200  # latencies a beat carries at most


@dataclass(frozen=True, slots=True)
class Place:
    """Which worker of how many, and where its files go."""

    worker: int
    workers: int
    folder: Path


class Duty:
    """One worker's run. Users (locust's greenlets) call `user` or `dispatch`; `keep` sees to the end."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan = plan
        self.place = place
        self.start = 0.0  # of the run, on the machine's monotonic clock; 0: not yet known
        self.is_stopped = False  # arrivals are over, before their time
        self._begun = Event()
        self._connections = Connections(plan.target)
        key = os.environ.get(plan.target.api_key_env or "", "")
        self.writer = Writer(plan)
        self._sender = Sender(
            self._connections,
            head(self._connections, self.writer.path, key),
            plan.target.timeout,
            plan.target.sends_done,
        )
        self._rows: BinaryIO = (place.folder / f"rows-{place.worker}.jsonl").open("wb", buffering=1 << 20)
        self._inflight: dict[Any, None] = {}
        self._open: dict[int, Answer] = {}
        self._schedule: Iterator[Arrival] = iter(())
        self._waiting: Arrival | None = None  # open loop: the arrival that is next
        self._next = place.worker  # closed loop: the number of the next conversation
        self._measured = 0
        self._joined = 0
        self._exhausted = Event()  # nothing more will be sent
        self.counts = Beat()
        self._ttfts: deque[float] = deque(maxlen=LATEST)
        self._tpots: deque[float] = deque(maxlen=LATEST)
        self.probe = Probe(gevent.sleep, 0.0)
        self.on_record: Callable[[Record], None] | None = None
        self.is_telling = True  # a parent listens on stdout

    def begin(self, start: float) -> None:
        """The common start of all workers, on the clock they share."""
        self.start = start
        self.probe = Probe(gevent.sleep, start)
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection would stop every stream for milliseconds
        self._begun.set()

    def wait_for_start(self) -> None:
        """Until the run begins."""
        self._begun.wait()
        gevent.sleep(max(0.0, self.start - perf_counter()))

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self.start

    # -- open loop ---------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Send this worker's share of the schedule, each at its time, whatever comes back."""
        self.wait_for_start()
        schedule = loads.arrivals(self.plan.load, self.plan.workload.seed, self.plan.trace)
        self._schedule = loads.share(schedule, self.place.worker, self.place.workers)
        for arrival in self._schedule:
            self._waiting = arrival
            request = self.writer.request(arrival.number)
            body = self.writer.body(request)
            delay = self.start + arrival.at - perf_counter()
            if delay > 0:
                gevent.sleep(delay)
            if self.is_stopped:
                return
            self._spawn(arrival, request, body)
        self._waiting = None
        self._exhausted.set()

    def _spawn(self, arrival: Arrival, request: Request, body: bytes) -> None:
        spawn: Any = gevent.spawn
        greenlet = spawn(self._converse, arrival, request, body)
        self._inflight[greenlet] = None
        greenlet.link(self._forget)

    def _forget(self, greenlet: Any) -> None:
        self._inflight.pop(greenlet, None)

    def _leave_unsent(self) -> None:
        """Rows for what was due and not sent; what was not due yet was never asked of the server."""
        due = self.now
        while self._waiting is not None and self._waiting.at <= due:
            self._write(self._sketch(self.writer.request(self._waiting.number), self._waiting.stage, self._waiting.at))
            self._waiting = next(self._schedule, None)

    # -- closed loop -------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """A new user's first moment: users begin one after the other over the warm-up, for a crowd that asks in step
        would measure its own queue. Users of a later stage begin at once."""
        self.wait_for_start()
        load = self.plan.load
        place = self._joined * self.place.workers + self.place.worker
        self._joined += 1
        until = place / max(1.0, load.levels[0].target) * min(SPREAD * load.warmup, SPREAD_S)
        gevent.sleep(max(0.0, until - self.now))

    def user(self) -> bool:
        """One conversation of one user, begun as soon as it is free; False when there is nothing more to send."""
        if not self._may_begin():
            self._exhausted.set()
            return False
        number, self._next = self._next, self._next + self.place.workers
        request = self.writer.request(number)
        at = self.now
        arrival = Arrival(number, at, self.plan.load.target_at(at)[0])
        own = gevent.getcurrent()
        self._inflight[own] = None
        try:
            last = self._converse(arrival, request, self.writer.body(request))
            if last.status in FAILED:
                gevent.sleep(PAUSE_S)
        finally:
            self._inflight.pop(own, None)
        return True

    def _may_begin(self) -> bool:
        load, now = self.plan.load, self.now
        if self.is_stopped or now >= load.end:
            return False
        if load.requests is None or now < load.warmup:
            return True
        quota = len(range(self.place.worker, load.requests, self.place.workers))
        self._measured += 1
        return self._measured <= quota

    # -- one conversation --------------------------------------------------------------------------------------------

    def _converse(self, arrival: Arrival, request: Request, body: bytes) -> Record:
        """All turns of a conversation, the last one's row; after one that failed the rest is unsent."""
        history: list[dict[str, str]] = []
        record, said = self._exchange(request, body, arrival.stage, arrival.at)
        for turn in range(1, self.plan.workload.turns):
            history += [*request.messages, {"role": "assistant", "content": said}]
            request = self.writer.request(arrival.number, turn)
            if record.status != "ok" or self.is_stopped:
                record = self._sketch(request, arrival.stage, self.now)
                self._write(record)
                continue
            record, said = self._exchange(request, self.writer.body(request, history), arrival.stage, self.now)
        return record

    def _exchange(self, request: Request, body: bytes, stage: int, intended: float) -> tuple[Record, str]:
        """Send one request, write its row; the row and the text that came back."""
        done = Exchange(Answer(wants_text=self.plan.workload.turns > 1))
        self.counts.sent += 1
        self._open[id(done)] = done.answer
        try:
            self._sender.send(body, done, request.leave_after)
        finally:
            del self._open[id(done)]
            record = record_of(self._sketch(request, stage, intended), done, self.start)
            self._write(record)
        return record, "".join(done.answer.text)

    def _sketch(self, request: Request, stage: int, intended: float) -> Record:
        load, work = self.plan.load, self.plan.workload
        return Record(
            id=request.index * work.turns + request.turn,
            worker=self.place.worker,
            stage=stage,
            warmup=intended < load.warmup,
            conversation=request.index if work.turns > 1 else None,
            turn=request.turn,
            priority=request.priority,
            want_in=request.want_in,
            want_out=request.want_out,
            leave_after=request.leave_after,
            status="unsent",
            t_intended=round(intended, 6),
        )

    def _write(self, record: Record) -> None:
        if self._rows.closed:
            return
        self._rows.write(encode(record))
        if self.on_record is not None:
            self.on_record(record)
        if record.t_send is not None:
            self.counts.count(record.status in FAILED, record.chunks)
        if record.t_first is not None and record.t_send is not None:
            self._ttfts.append(record.t_first - record.t_send)
        if record.gaps:
            self._tpots.append(sum(record.gaps) / len(record.gaps))

    # -- time --------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Measure itself and tell the parent how it goes, once a second, for ever."""
        self.wait_for_start()
        self.probe.run(self._beat)

    def _beat(self) -> None:
        if self._rows.closed:
            return
        self._rows.flush()
        running = sum(answer.chunks for answer in self._open.values())
        beat = msgspec.structs.replace(
            self.counts, at=self.now, inflight=len(self._open), events=self.counts.events + running,
            cpu=self.probe.seconds[-1].cpu if self.probe.seconds else 0.0,
            ttfts=list(self._ttfts), tpots=list(self._tpots),
        )  # fmt: skip
        self._ttfts.clear()
        self._tpots.clear()
        if self.is_telling:
            tell(msgspec.json.encode(beat))

    def keep(self) -> None:
        """Wait for the end of arrivals and of what is in flight; after the drain's time the rest is censored."""
        self.wait_for_start()
        while not self._exhausted.is_set() and self.now < self.plan.load.end and not self.is_stopped:
            gevent.sleep(0.05)
        ended = self.now
        limit = ended + (0.0 if self.is_stopped else self.plan.load.drain)
        while (self._inflight or not self._is_over()) and self.now < limit and not self.is_stopped:
            gevent.sleep(0.02)
        self.is_stopped = True
        gevent.killall(list(self._inflight), Abandoned, block=True, timeout=10)
        self._leave_unsent()
        self.close()
        tell(msgspec.json.encode(Ended(at=self.now, arrivals_ended=ended, seconds=self.probe.seconds)))

    def _is_over(self) -> bool:
        """Open loop: every arrival was dispatched. Closed: users see for themselves that the time is over."""
        return not self.plan.load.is_open or self._exhausted.is_set()

    def close(self) -> None:
        """The rows are complete; nothing is sent any more."""
        self.is_stopped = True
        self._rows.close()
        self._connections.close()

    def stop(self) -> None:
        """End now: arrivals stop, what is in flight is censored."""
        self.is_stopped = True


def tell(line: bytes) -> None:
    """One line to the parent process."""
    os.write(1, line + b"\n")
