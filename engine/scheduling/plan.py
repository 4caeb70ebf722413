"""What one step computes and what came of it: the values that pass between deciding and computing."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.scheduling.sequence import Sequence
from engine.wire.messages import Top


@dataclass(frozen=True, slots=True)
class Work:
    """Compute tokens[start : start + count] of one sequence; at the last known token, choose the next."""

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        """Tokens computed after this work."""
        return self.start + self.count

    @property
    def chooses(self) -> bool:
        """True when this work ends with a new token."""
        return self.end == len(self.sequence.tokens) and self.sequence.submit.sampling.max_tokens > 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The works of one step, in the order their rows are laid out."""

    works: tuple[Work, ...] = ()

    @property
    def tokens(self) -> int:
        """Rows of the step: what the token budget limits."""
        return sum(work.count for work in self.works)

    @property
    def prompt_tokens(self) -> int:
        """Rows with the prompt role."""
        return sum(max(0, min(work.end, work.sequence.prompt_len) - work.start) for work in self.works)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one work brought: a token where it chose one, or the reason why the sequence cannot go on."""

    token: int | None = None
    top: Top | None = None
    prompt_tops: list[Top] = field(default_factory=lambda: list[Top]())  # of positions start + 1 …, within the prompt
    error: str | None = None
