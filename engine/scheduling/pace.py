"""How much of a prompt fits beside running streams so that their next token comes within a target time."""

from __future__ import annotations

from collections.abc import Iterable

from engine.scheduling.plan import StepPlan, Work
from engine.scheduling.steptime import ExpertShape, Load, StepTime

FIRST_CHUNK = 32  # prompt tokens beside streams while nothing is known of larger steps
GROWTH = 2  # a step has at most this many times the tokens of the largest one seen: no further is the model trusted
LEAST_CHUNK = 16  # prompt tokens that every step may have: a target that cannot be met must not stop prompts for ever


class Pace:
    """Sizes the prompt parts of steps by what steps have taken so far."""

    def __init__(self, target_s: float, shape: ExpertShape) -> None:
        """`target_s` 0: no target, nothing is learned and every chunk is as large as the budget allows."""
        self.target_s = target_s
        self.steptime = StepTime(shape)
        self._largest = 0

    @property
    def is_on(self) -> bool:
        """Whether there is a target."""
        return self.target_s > 0

    def predict(self, plan: StepPlan) -> float:
        """Seconds that a step is expected to take; 0 without a target or before the first step."""
        return self.steptime.predict(load_of(plan.works)) if self.is_on else 0.0

    def chunk(self, beside: Iterable[Work], start: int, most: int) -> int:
        """Rows of a prompt from position `start` on, 0 … `most`, that may join the works planned so far.

        Without a stream among them, a sequence that has given tokens already, nobody waits for the step's end.
        """
        if not self.is_on or most <= 0:
            return most
        works = list(beside)
        if not any(work.sequence.output_len for work in works):
            return most
        step, decodes = load_of(works), sum(work.sequence.missing == 1 for work in works)
        chunks = step.tokens - decodes  # rows of prompts that are in the step already
        low = min(most, max(LEAST_CHUNK - chunks, 0))
        high = min(most, max(low, FIRST_CHUNK - chunks, GROWTH * self._largest - step.tokens))
        while low < high:
            middle = (low + high + 1) // 2
            if self.steptime.predict(step.plus(start, middle)) <= self.target_s:
                low = middle
            else:
                high = middle - 1
        return low

    def learn(self, plan: StepPlan, seconds: float) -> None:
        """Take in how long a step took that went as planned."""
        if self.is_on and plan.works and seconds > 0:
            load = load_of(plan.works)
            if self.steptime.learn(load, seconds):
                self._largest = max(self._largest, load.tokens)


def load_of(works: Iterable[Work]) -> Load:
    """The load of works together."""
    load = Load()
    for work in works:
        load = load.plus(work.start, work.count)
    return load
