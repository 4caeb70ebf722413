"""The loop: take messages, schedule, run, commit, say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from engine.core.inbox import Inbox
from engine.running.runner import Runner
from engine.scheduling.plan import Outcome, StepPlan
from engine.scheduling.scheduler import Scheduler
from engine.wire.messages import Abort, Beat, Quit, ResetPrefixCache, Step, Submit, ToCore

HOPELESS_STEPS = 3  # steps in a row in which every one of several sequences failed: the process is broken, not they


class Loop:
    """Runs until told to quit. One thread owns it; the heartbeat only reads its numbers."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, inbox: Inbox, send: Callable[[msgspec.Struct], None]
    ) -> None:
        self.scheduler = scheduler
        self.steps = 0
        self.step_began: float | None = None  # monotonic clock; None between steps
        self._runner = runner
        self._inbox = inbox
        self._send = send
        self._failed_steps = 0

    def run(self) -> None:
        """Alternate until Quit or until the other end is gone."""
        while self._take_messages():
            self.step()

    def step(self) -> None:
        """Schedule, run, commit, tell."""
        self.step_began = time.monotonic()
        plan = self.scheduler.schedule()
        expected = self.scheduler.pace.predict(plan)
        outcomes = self._runner.run(plan)
        seconds = time.monotonic() - self.step_began
        chosen = self.scheduler.commit(plan, outcomes, seconds)
        self.steps += bool(plan.works)
        self.step_began = None
        self._tell(plan, (seconds, expected), chosen)
        self._judge(outcomes)

    def _take_messages(self) -> bool:
        """Handle all that has come; wait for something when there is nothing to do. False: end."""
        if self.scheduler.is_idle:
            self.scheduler.check_drained()
        return all([self._handle(message) for message in self._inbox.take(self.scheduler.patience())])

    def _handle(self, message: ToCore) -> bool:
        if isinstance(message, Submit):
            self.scheduler.add(message)
        elif isinstance(message, Abort):
            self.scheduler.abort(message.seqs)
        elif isinstance(message, ResetPrefixCache):
            self.scheduler.pool.reset()
        return not isinstance(message, Quit)

    def _tell(self, plan: StepPlan, times: tuple[float, float], chosen: int) -> None:
        """Send what happened since the last time, refusals first; times: seconds it took, and was expected to."""
        refused, deltas = self.scheduler.take_events()
        for one in refused:
            self._send(one)
        if deltas or plan.works:
            self._send(Step(self.steps, deltas, times[0], plan.prompt_tokens, chosen, times[1]))

    def _judge(self, outcomes: Sequence[Outcome]) -> None:
        """Give up when several sequences fail together again and again."""
        if outcomes:
            all_failed = len(outcomes) > 1 and all(outcome.error is not None for outcome in outcomes)
            self._failed_steps = self._failed_steps + 1 if all_failed else 0
        if self._failed_steps >= HOPELESS_STEPS:
            raise RuntimeError(  # a new process may do better
                f"every sequence failed in {HOPELESS_STEPS} steps in a row: {outcomes[0].error}"
            )

    def beat(self, epoch: int, number: int, rss_bytes: int) -> Beat:
        """A snapshot; called from the heartbeat's thread."""
        scheduler, began = self.scheduler, self.step_began
        size = scheduler.config.block_size
        return Beat(
            epoch=epoch,
            beat=number,
            step=self.steps,
            in_step_s=time.monotonic() - began if began is not None else 0.0,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_tokens=scheduler.pool.available * size,
            cached_tokens=scheduler.pool.cached * size,
            preemptions=scheduler.counters.preemptions,
            prefix_queries=scheduler.counters.prefix_queries,
            prefix_hits=scheduler.counters.prefix_hits,
            rss_bytes=rss_bytes,
        )
