"""One choice of one request as the core sees it, and who is told about it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from engine.wire.messages import Delta, Refused, Submit


class SequenceOwner(Protocol):
    """The request a sequence belongs to. Every call returns at once."""

    def on_delta(self, sequence: Sequence, delta: Delta) -> None:
        """New ids, the end, or both."""
        ...

    def on_refused(self, sequence: Sequence, refused: Refused) -> None:
        """The sequence never started, or can never be served."""
        ...

    def on_lost(self, epoch: int, cause: str) -> None:
        """The core of this epoch died; the sequence will be replayed."""
        ...


class Sequence:
    """A Submit and the ids received for it, kept until the sequence ends so that it can be replayed."""

    __slots__ = ("awaits_first", "blamed_deaths", "epoch", "fruitless_deaths", "ids", "owner", "seen_prompt", "submit")

    def __init__(self, submit: Submit, owner: SequenceOwner) -> None:
        self.submit = submit
        self.owner = owner
        self.ids: list[int] = list(submit.output_ids)
        self.awaits_first = True  # the core that has it has sent no id yet
        self.epoch = 0  # of the core that has it; 0: none yet
        self.seen_prompt = False  # prompt logprobs have been received
        self.fruitless_deaths = 0  # cores that died with it since its last new id
        self.blamed_deaths = 0  # of these, those where nothing else can have been the cause

    @property
    def number(self) -> int:
        """Its number on the wire; never reused within a process."""
        return self.submit.seq

    def note(self, delta: Delta) -> None:
        """Keep what a replay needs."""
        if delta.ids:
            self.ids.extend(delta.ids)
            self.awaits_first = False
            self.fruitless_deaths = self.blamed_deaths = 0
        if delta.prompt_tops is not None:
            self.seen_prompt = True

    def to_submit(self) -> Submit:
        """The message for the next core: from the start, or from where the last core stopped."""
        if self.epoch == 0:
            return self.submit
        return msgspec.structs.replace(
            self.submit,
            output_ids=list(self.ids),
            resumed=True,  # a core has had it: it may not be refused any more
            want_prompt_logprobs=self.submit.want_prompt_logprobs and not self.seen_prompt,
        )
