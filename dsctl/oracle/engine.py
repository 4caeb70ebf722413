"""The oracle's steps: every running sequence gets one token of each choice per step, on a known schedule."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dsctl.oracle.faults import Switches
from dsctl.oracle.metronome import Metronome
from dsctl.oracle.tokens import STOP_EVERY, token_at


@dataclass(frozen=True, slots=True)
class Pace:
    """The schedule: time to the first token, time between tokens (0: all at once), most sequences at a time.

    `is_exact`: every sequence has a schedule of its own instead of steps that all share (no core is ever lost then).
    `firsts_ms` then are several times to the first token: who asks for n tokens gets the (n mod how many)-th.
    """

    ttft_ms: float = 50.0
    itl_ms: float = 20.0
    max_num_seqs: int = 4096
    is_exact: bool = False
    firsts_ms: tuple[float, ...] = ()

    def first_s(self, max_tokens: int) -> float:
        """Seconds to the first token of who asks for so many."""
        return (self.firsts_ms[max_tokens % len(self.firsts_ms)] if self.firsts_ms else self.ttft_ms) / 1000


@dataclass(slots=True)
class Choice:
    """One choice of a sequence: how many tokens it has, and how it ended."""

    index: int
    count: int = 0
    finished: str | None = None


@dataclass(slots=True)
class Wish:
    """What a request asks of the engine."""

    seed: int
    max_tokens: int
    ignore_eos: bool
    choices: list[Choice] = field(default_factory=lambda: list[Choice]())


class Listener(Protocol):
    """Who gets the tokens of a sequence."""

    def on_token(self, choice: Choice, position: int, token: int) -> bool:
        """One token; False ends the sequence (the listener has gone)."""
        ...

    def on_end(self) -> None:
        """All choices have ended."""
        ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One running request."""

    wish: Wish
    listener: Listener
    ready_at: float
    alive: bool = True


class Engine:
    """The step loop; `step`, `epoch` and `running` are what the progress stream tells."""

    def __init__(self, pace: Pace, switches: Switches, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = pace
        self.switches = switches
        self.step = 0
        self.epoch = 1
        self.beat = 0
        self.restarting_until = 0.0
        self._clock = clock
        self._running: dict[Sequence, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.metronome = Metronome(lambda: switches.find("hang") is not None)

    @property
    def running(self) -> int:
        """Sequences that have not ended."""
        return len(self._running)

    @property
    def state(self) -> str:
        """What the progress stream calls the core's state."""
        return "restarting" if self._clock() < self.restarting_until else "ready"

    def submit(self, wish: Wish, listener: Listener) -> Sequence:
        """Start a sequence; its tokens come from the step after its prefill on."""
        late = self.switches.find("late")
        sequence = Sequence(wish, listener, self._clock() + self.pace.ttft_ms / 1000 * (late.value if late else 1.0))
        self._running[sequence] = None
        if self.pace.is_exact:
            first_s = self.pace.first_s(wish.max_tokens)
            self.metronome.play(first_s, self.pace.itl_ms / 1000, lambda: self._advance_alone(sequence))
        elif self.pace.itl_ms == 0 and self.pace.ttft_ms == 0:
            self._burst(sequence)
        else:
            self._arm(self.pace.ttft_ms / 1000)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence."""
        sequence.alive = False
        self._running.pop(sequence, None)

    def lose_core(self, pause_s: float) -> None:
        """Pretend that the core died: all sequences go on after the pause, in a new epoch."""
        self.epoch += 1
        self.step = 0
        self.restarting_until = self._clock() + pause_s
        for sequence in self._running:
            sequence.ready_at = self.restarting_until

    def _advance_alone(self, sequence: Sequence) -> bool:
        """One token of one sequence; False when it was the last."""
        self.step += 1
        if sequence.alive:
            self._advance(sequence)
        return sequence in self._running

    def _burst(self, sequence: Sequence) -> None:
        while sequence.alive and sequence in self._running and not self.switches.find("hang"):
            self.step += 1
            self._advance(sequence)

    def _arm(self, delay: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        started = self._clock()
        slow = self.switches.find("slow")
        pause = max(self.pace.itl_ms, 1.0) / 1000 * (slow.value if slow else 1.0)
        if not self.switches.find("hang"):
            due = [sequence for sequence in self._running if sequence.ready_at <= started + 1e-4]
            self.step += 1 if due else 0
            for sequence in due[: self.pace.max_num_seqs]:
                if sequence.alive:
                    self._advance(sequence)
        if self._running:
            self._arm(max(0.0, pause - (self._clock() - started)))

    def _advance(self, sequence: Sequence) -> None:
        wish = sequence.wish
        for choice in wish.choices:
            if choice.finished is not None:
                continue
            position = choice.count
            token = token_at(wish.seed + (self.switches.find("wrong") is not None), choice.index, position)
            choice.count += 1
            if token % STOP_EVERY == 0 and not wish.ignore_eos:
                choice.finished = "stop"
            elif choice.count >= wish.max_tokens:
                choice.finished = "length"
            if not sequence.listener.on_token(choice, position, token):
                self.abort(sequence)
                return
        if all(choice.finished for choice in wish.choices):
            self._running.pop(sequence, None)
            sequence.listener.on_end()


def progress_of(engine: Engine, numerics_id: str, *, exact: bool) -> dict[str, Any]:
    """One line of the progress stream."""
    engine.beat += 1
    return {
        "state": engine.state,
        "epoch": engine.epoch,
        "step": engine.step,
        "beat": engine.beat,
        "running": engine.running,
        "waiting": 0,
        "kv_free_tokens": max(0, 1 << 20),
        "kv_total_tokens": 1 << 20,
        "restarts": engine.epoch - 1,
        "numerics_id": numerics_id,
        "exact": exact,
        "silent_ms": 0,
    }


def own_pid() -> int:
    """The process that would be killed: the oracle is API process and core in one."""
    return os.getpid()
