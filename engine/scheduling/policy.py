"""When waiting sequences are let in, and how long the queue is likely to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from engine.scheduling.sequence import Sequence
from engine.spec.config import EngineConfig

SMOOTHING = 0.1  # weight of the newest measurement in a running mean
RETRY_AFTER_S = (1.0, 60.0)  # the least and the most a client is told to wait


def is_held(waiting: list[Sequence], config: EngineConfig, now: float) -> bool:
    """True while waiting sequences are kept back so that a fuller batch can start together.

    Only admission is delayed, never a running sequence, and never one that was admitted before.
    """
    if not waiting or len(waiting) >= config.preferred_batch_size:
        return False
    if any(sequence.started_s is not None or sequence.submit.resumed for sequence in waiting):
        return False
    return now < hold_ends(waiting, config)


def hold_ends(waiting: list[Sequence], config: EngineConfig) -> float:
    """The clock at which the longest-waiting sequence is held no longer."""
    return min(sequence.arrived_s for sequence in waiting) + config.max_queue_delay_ms / 1000


def queue_deadline(sequence: Sequence, config: EngineConfig) -> float | None:
    """The clock at which a sequence that has never run is refused; None: it may wait for ever."""
    if sequence.started_s is not None or sequence.submit.resumed:
        return None
    limit = sequence.submit.queue_timeout_s
    limit = config.queue_timeout_s if limit is None else limit
    return sequence.arrived_s + limit if limit > 0 else None


@dataclass(slots=True)
class Rates:
    """Running means of what the engine does: tokens per second computed, tokens per finished sequence."""

    prompt_per_s: float = 0.0
    output_per_s: float = 0.0
    output_len: float = 0.0

    def step(self, prompt_tokens: int, output_tokens: int, seconds: float) -> None:
        """Take in one step of `seconds`."""
        if seconds <= 0:
            return
        if prompt_tokens:
            self.prompt_per_s = _mean(self.prompt_per_s, prompt_tokens / seconds)
        if output_tokens:
            self.output_per_s = _mean(self.output_per_s, output_tokens / seconds)

    def finished(self, output_len: int) -> None:
        """Take in one sequence that ended by itself."""
        self.output_len = _mean(self.output_len, float(output_len))

    def retry_after_s(self, waiting: Iterable[Sequence]) -> float:
        """Seconds until the present queue is likely to be through, within RETRY_AFTER_S; whole seconds."""
        sequences = list(waiting)
        prompt = sum(sequence.missing for sequence in sequences)
        seconds = prompt / self.prompt_per_s if self.prompt_per_s else 0.0
        if self.output_per_s:
            seconds += len(sequences) * self.output_len / self.output_per_s
        return min(max(float(ceil(seconds)), RETRY_AFTER_S[0]), RETRY_AFTER_S[1])


def _mean(old: float, new: float) -> float:
    return new if old == 0.0 else old + SMOOTHING * (new - old)
