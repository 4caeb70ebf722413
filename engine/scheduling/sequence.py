"""One choice of one request on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.caching import chain
from engine.wire.messages import Finish, Submit, Top

Rank = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens, the blocks and the progress of one sequence. Tokens before `prompt_len` have the prompt role."""

    submit: Submit
    arrival: int  # order of arrival
    arrived_s: float  # clock at arrival
    tokens: list[int] = field(default_factory=lambda: list[int]())
    prompt_len: int = 0
    computed: int = 0  # tokens whose latents are in the cache
    blocks: list[int] = field(default_factory=lambda: list[int]())
    keys: list[bytes] = field(default_factory=lambda: list[bytes]())  # of full blocks, from the first on
    published: int = 0  # blocks from the first on that need no publishing any more
    started_s: float | None = None  # clock when first scheduled
    cached_tokens: int = 0  # prompt tokens found in the prefix cache when first scheduled
    said_first: bool = False  # the delta with cached_tokens and queue_s is out
    prompt_tops: list[Top | None] | None = None  # collected by position; None when not wanted or already given

    @classmethod
    def of(cls, submit: Submit, arrival: int, now: float) -> Sequence:
        """A sequence that has just arrived, with the output it already has."""
        sequence = cls(submit, arrival, now, [*submit.prompt_ids, *submit.output_ids], len(submit.prompt_ids))
        if submit.sampling.prompt_logprobs is not None and submit.want_prompt_logprobs:
            sequence.prompt_tops = [None for _ in submit.prompt_ids]
        return sequence

    @property
    def rank(self) -> Rank:
        """Smaller is served first: priority, then what was admitted before, then arrival."""
        return (self.submit.priority, 0 if self.submit.resumed else 1, self.arrival)

    @property
    def output_len(self) -> int:
        """Tokens generated so far, those of earlier attempts included."""
        return len(self.tokens) - self.prompt_len

    @property
    def missing(self) -> int:
        """Tokens known but not computed."""
        return len(self.tokens) - self.computed

    def blocks_needed(self, block_size: int) -> int:
        """Blocks that hold all known tokens."""
        return -(-len(self.tokens) // block_size)

    def extend_keys(self, block_size: int, upto: int, *, by_role: bool) -> None:
        """Know the keys of all full blocks in tokens[:upto]; without `by_role` generated tokens pass as prompt."""
        if upto // block_size > len(self.keys):
            chain.extend(self.keys, self.tokens[:upto], self.prompt_len if by_role else upto, block_size)

    def ending(self) -> Finish | None:
        """How the output so far ends the sequence, if it does."""
        sampling = self.submit.sampling
        if self.output_len and self.output_len > sampling.min_tokens and self.tokens[-1] in sampling.stop_token_ids:
            return "stop"
        return "length" if self.output_len >= sampling.max_tokens else None
