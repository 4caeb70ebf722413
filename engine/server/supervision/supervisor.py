"""Runs one core after another over the same live sequences, so that clients see a pause and never a loss."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.server.sequences import Sequence
from engine.server.supervision.core_process import CoreProcess
from engine.server.supervision.replay import ReplayTable
from engine.server.supervision.stepclock import StepClock
from engine.server.supervision.watchdog import Watchdog
from engine.spec.attempt import Progress
from engine.spec.config import EngineConfig
from engine.spec.errors import RequestError
from engine.wire.messages import Abort, Beat, Delta, Fatal, Quit, Ready, Refused, Start, Step, Submit, ToServer

log = logging.getLogger("engine.server")

CRASH_LOOP = 3  # exits in a row before `ready`
LONGEST_BACKOFF_S = 2.0
SETTLED_S = 10.0  # a core that lived this long resets the back-off

State = Literal["starting", "ready", "restarting", "failed"]


@dataclass(frozen=True, slots=True)
class Collapse:
    """Why the process cannot go on, and the code to end with."""

    exit_code: int
    message: str


class Supervisor:
    """The one owner of cores. Everything runs on the event loop; no call blocks."""

    def __init__(self, config: EngineConfig, *, core_module: str, spare_cores: int, faults: dict[str, float]) -> None:
        self._config = config
        self._module = core_module
        self._spares_wanted = spare_cores
        self._faults = faults
        self._table = ReplayTable()
        self._clock = StepClock()
        self._core: CoreProcess | None = None
        self._spare: CoreProcess | None = None
        self._watchdog: Watchdog | None = None
        self._ready_signal = asyncio.Event()
        self._last_number = 0
        self._finish_rate = 0.0  # sequences per second, smoothed
        self._last_finish = time.monotonic()
        self.state: State = "starting"
        self.is_draining = False
        self.epoch = 0
        self.restarts = 0
        self.ready: Ready | None = None
        self.beat: Beat | None = None
        self.step = 0
        self.fatal: Fatal | None = None
        self.on_step: Callable[[Step], None] = lambda step: None
        self.on_beat: Callable[[Beat], None] = lambda beat: None
        self.on_ready: Callable[[Ready], None] = lambda ready: None

    # -- what requests use ---------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """A number for a new sequence."""
        self._last_number += 1
        return self._last_number

    def admit(self, count: int) -> Ready:
        """Room for `count` more sequences, or RequestError (503 with Retry-After)."""
        if self.is_draining:
            raise overloaded("this server is shutting down; try another replica", "shutting_down", 1.0)
        if self.ready is None or self.state not in ("ready", "restarting"):
            raise overloaded("the model is still loading", "not_ready", 2.0)
        waiting = self._table.unstarted
        room = self._config.queue_limit + max(0, self._config.max_num_seqs - (len(self._table) - waiting))
        if waiting + count > room:
            raise overloaded(
                f"the queue is full: {waiting} sequences wait, {room} may",
                "queue_full",
                self._estimated_wait_s(waiting),
            )
        return self.ready

    def submit(self, sequence: Sequence) -> None:
        """Send a sequence to the core, now or when there is one."""
        for other in self._table.add(sequence):
            self._send(other)

    def forget(self, sequences: list[Sequence]) -> None:
        """Nobody wants these any more: free their cache."""
        numbers: list[int] = []
        following: list[Sequence] = []
        for sequence in sequences:
            if self._table.get(sequence.number) is sequence:
                following += self._table.remove(sequence)
                if sequence.epoch == self.epoch:
                    numbers.append(sequence.number)
        if numbers and self._core is not None:
            self._core.send(Abort(numbers))
        for sequence in following:
            self._send(sequence)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def is_up(self) -> bool:
        """Whether the core computes now."""
        return self.state == "ready"

    # -- what operators see --------------------------------------------------------------------------------------

    @property
    def core_pids(self) -> list[int]:
        """The process that serves, or loads in order to."""
        return [self._core.pid] if self._core is not None and self._core.is_alive else []

    @property
    def silent_ms(self) -> int:
        """How long the core has been silent."""
        return int(1000 * self._watchdog.silence_s) if self._watchdog is not None else 0

    def progress(self) -> Progress:
        """A snapshot for the progress stream."""
        beat, ready = self.beat, self.ready
        return Progress(
            state="draining" if self.is_draining and self.state == "ready" else self.state,
            epoch=self.epoch,
            step=self.step,
            beat=beat.beat if beat else 0,
            running=beat.running if beat else 0,
            waiting=beat.waiting if beat else 0,
            kv_free_tokens=beat.free_tokens if beat else 0,
            kv_total_tokens=ready.kv_total_tokens if ready else 0,
            restarts=self.restarts,
            numerics_id=ready.numerics_id if ready else "",
            exact=ready.exact if ready else False,
            silent_ms=self.silent_ms,
            step_limit_s=self._watchdog.step_limit_s if self._watchdog is not None else 0.0,
        )

    # -- the life of cores ---------------------------------------------------------------------------------------

    async def run(self) -> Collapse:
        """Keep a core running; returns only when none can be."""
        failures = 0
        backoff = 0.0
        while True:
            began = time.monotonic()
            core = await self._take_core()
            cause = await self._live_with(core)
            if self.fatal is not None and self.ready is None:
                self.state = "failed"
                return Collapse(self.fatal.exit_code, self.fatal.message)
            was_ready = self.state == "ready"
            failures = 0 if was_ready else failures + 1
            self.restarts += 1
            log.warning("%s (epoch %d); %d sequences will be replayed", cause, self.epoch, len(self._table))
            if failures >= CRASH_LOOP:
                self.state = "failed"
                await core.ended()
                words = core.last_words or "(it wrote nothing on stderr)"
                why = self.fatal.message if self.fatal else cause
                return Collapse(1, f"the core ended {failures} times before it was ready: {why}\n{words}")
            self.state = "restarting" if self.ready is not None else "starting"
            if was_ready:
                self._announce(cause)
            settled = time.monotonic() - began > SETTLED_S
            backoff = 0.0 if settled else min(LONGEST_BACKOFF_S, 2 * backoff + 0.05)
            await asyncio.sleep(0.0 if settled else backoff - 0.05)

    async def close(self) -> None:
        """End every core: ask, then kill."""
        cores = [core for core in (self._core, self._spare) if core is not None]
        for core in cores:
            core.send(Quit())
        deadline = time.monotonic() + 1.0
        while any(core.is_alive for core in cores) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for core in cores:
            core.kill("server ends")
        for core in cores:
            await core.ended()

    async def _take_core(self) -> CoreProcess:
        spare, self._spare = self._spare, None
        if spare is not None and spare.is_alive:
            return spare
        return await CoreProcess.spawn(self._module)

    async def _live_with(self, core: CoreProcess) -> str:
        """One core from Start to death; returns the cause of death."""
        self.epoch += 1
        self.fatal = None
        self.beat = None
        self.step = 0
        self._core = core
        self._watchdog = Watchdog(core, self._clock, self._expected_rows)
        self._ready_signal.clear()
        core.on_message = self._on_message
        core.send(Start(self._config, self.epoch, self._faults))
        watching = asyncio.create_task(self._watchdog.run())
        try:
            return await asyncio.shield(core.dead)
        finally:
            watching.cancel()

    async def keep_spare(self) -> None:
        """Keep a spare, but only beside a core that is ready, so that imports do not slow its loading down."""
        pause = 0.5
        while self._spares_wanted:
            await self._ready_signal.wait()
            if self._spare is None or not self._spare.is_alive:
                pause = 0.5 if self._spare is None else min(10.0, 2 * pause)
                self._spare = await CoreProcess.spawn(self._module)
            await asyncio.sleep(pause)

    def _announce(self, cause: str) -> None:
        for sequence in self._table.after_death(self.epoch):
            message = "the engine died again and again while it computed this request alone; it was given up"
            sequence.owner.on_refused(sequence, Refused(sequence.number, 422, "request_crashes_engine", message))
        for owner in {id(sequence.owner): sequence.owner for sequence in self._table.all()}.values():
            owner.on_lost(self.epoch, cause)

    def _send(self, sequence: Sequence) -> None:
        """Give a sequence to the core if it can take one; otherwise it goes with the next."""
        if self._core is None or self.state != "ready":
            return
        submit: Submit = sequence.to_submit()
        sequence.epoch = self.epoch
        sequence.awaits_first = True
        self._core.send(submit)

    # -- messages of the core ------------------------------------------------------------------------------------

    def _on_message(self, message: ToServer) -> None:
        if isinstance(message, Beat):
            self._on_beat(message)
        elif isinstance(message, Step):
            self._on_step(message)
        elif isinstance(message, Refused):
            self._on_refused(message)
        elif isinstance(message, Ready):
            self._on_ready(message)
        else:
            self.fatal = message

    def _on_beat(self, beat: Beat) -> None:
        self.beat = beat
        self.step = max(self.step, beat.step)
        assert self._watchdog is not None
        self._watchdog.on_beat(beat)
        self.on_beat(beat)

    def _on_ready(self, ready: Ready) -> None:
        if self.ready is not None and ready.numerics_id != self.ready.numerics_id:
            log.warning("numerics changed over a restart: %s, now %s", self.ready.numerics_id, ready.numerics_id)
        self.ready = ready
        self.state = "ready"
        assert self._watchdog is not None
        self._watchdog.is_ready = True
        self._watchdog.silence_s = 0.0
        self._ready_signal.set()
        self.on_ready(ready)
        for sequence in self._table.begin():
            self._send(sequence)

    def _on_step(self, step: Step) -> None:
        self.step = step.step
        assert self._watchdog is not None
        self._watchdog.silence_s = 0.0
        self._clock.note(step.prompt_tokens + step.output_tokens, step.seconds)
        self.on_step(step)
        for delta in step.deltas:
            self._on_delta(delta)

    def _on_delta(self, delta: Delta) -> None:
        sequence = self._table.get(delta.seq)
        if sequence is None:
            return
        sequence.note(delta)
        following = self._table.cleared(sequence) if delta.ids else []
        if delta.finished is not None:
            following += self._table.remove(sequence)
            self._note_finish()
        sequence.owner.on_delta(sequence, delta)
        for other in following:
            self._send(other)

    def _on_refused(self, refused: Refused) -> None:
        sequence = self._table.get(refused.seq)
        if sequence is not None:
            following = self._table.remove(sequence)
            sequence.owner.on_refused(sequence, refused)
            for other in following:
                self._send(other)

    # -- estimates -----------------------------------------------------------------------------------------------

    def _expected_rows(self) -> int:
        """Most rows the running step can have: what is left to prefill, and one row per sequence."""
        budget = self._config.max_num_batched_tokens
        if self.beat is not None and self.beat.preemptions > 0:
            return budget
        return min(budget, self._table.rows_ahead + len(self._table))

    def _note_finish(self) -> None:
        now = time.monotonic()
        rate = 1.0 / max(now - self._last_finish, 1e-3)
        self._last_finish = now
        self._finish_rate = rate if self._finish_rate == 0.0 else 0.9 * self._finish_rate + 0.1 * rate

    def _estimated_wait_s(self, waiting: int) -> float:
        return min(60.0, max(1.0, waiting / self._finish_rate if self._finish_rate else 2.0))


def overloaded(message: str, code: str, retry_after_s: float) -> RequestError:
    """A 503 that says when to come back."""
    error = RequestError(message, status=503, code=code)
    error.retry_after_s = retry_after_s
    return error
