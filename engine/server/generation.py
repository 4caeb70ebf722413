"""One request while it runs: its choices, their text, and the events that make up the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.server.checkpoint import TextSide
from engine.server.choice import ChoiceText, Piece, TextRules
from engine.server.events import Done, Event, Opening, Ticket
from engine.server.prompts import Prompt
from engine.server.query import Query
from engine.server.sequences import Sequence
from engine.spec.attempt import Failure, Lost, Resume, Usage
from engine.spec.errors import RequestError
from engine.wire.messages import Delta, Ready, Refused, Sampling, Submit, Top

log = logging.getLogger("engine.server")


class Cores(Protocol):
    """What a request needs of the supervisor."""

    @property
    def epoch(self) -> int:
        """Number of the present core."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether the core computes now."""
        ...

    def next_number(self) -> int:
        """A number for a new sequence."""
        ...

    def submit(self, sequence: Sequence) -> None:
        """Hand a sequence over."""
        ...

    def forget(self, sequences: list[Sequence]) -> None:
        """Free sequences that nobody wants any more."""
        ...


class Observer(Protocol):
    """Metrics and ledger."""

    def on_tokens(self, generation: Generation, choice: Choice, count: int) -> None:
        """A choice got tokens."""
        ...

    def on_choice_end(self, generation: Generation, choice: Choice) -> None:
        """A choice ended."""
        ...


@dataclass(slots=True)
class Choice:
    """One choice of a request and what is known of it."""

    index: int
    prompt: Prompt
    text: ChoiceText
    sequence: Sequence
    finished: str | None = None
    prompt_tops: list[Top | None] | None = None
    cached: int | None = None
    queue_s: float | None = None
    first_at: float | None = None
    last_at: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A checked and tokenised request, ready to run."""

    query: Query
    prompts: list[Prompt]
    ticket: Ticket
    resume: Resume | None = None


class Generation:
    """Runs a job: `start`, then `events` until a Done or Failure; `close` in any case."""

    def __init__(self, job: Job, side: TextSide, cores: Cores, observer: Observer) -> None:
        self.job = job
        self.query = job.query
        self.ticket = job.ticket
        self.arrived_at = time.monotonic()
        self.failure: Failure | None = None
        self.choices: list[Choice] = []
        self._side = side
        self._cores = cores
        self._observer = observer
        self.refused_after_s: float | None = None
        self._by_number: dict[int, Choice] = {}
        self._pending: deque[Event] = deque()
        self._held: list[Piece] = []  # before the openings
        self._wake = asyncio.Event()
        resume = job.resume
        self._opened = resume is not None and (resume.role_sent if job.query.route == "chat" else resume.prompt_sent)
        self._is_over = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- for the writer of the answer ----------------------------------------------------------------------------

    def start(self, ready: Ready) -> None:
        """Build the choices and hand them to the core. Events follow."""
        had = {choice.index: choice for choice in self.job.resume.choices} if self.job.resume else {}
        for index in range(len(self.job.prompts) * self.query.n):
            choice = self._make_choice(index, had[index].ids if index in had else [], ready)
            self.choices.append(choice)
            self._by_number[choice.sequence.number] = choice
            if index in had and had[index].finished is not None:
                choice.finished = had[index].finished
        if not self._cores.is_up:
            self._emit(Lost(self._cores.epoch, "the core is being restarted"))
        for choice in self.choices:
            self._launch(choice)
        if self.ticket.deadline_ms is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(max(0, self.ticket.deadline_ms) / 1000, self._expire)
        self._end_if_over()

    async def events(self, timeout_s: float) -> list[Event]:
        """Events since the last call; waits for one at most `timeout_s`, then returns []."""
        if not self._pending:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        events = list(self._pending)
        self._pending.clear()
        return events

    def close(self) -> None:
        """Nobody listens any more: what still runs is aborted. May be called twice."""
        self._is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        open_choices = [choice for choice in self.choices if choice.finished is None]
        self._cores.forget([choice.sequence for choice in open_choices])
        for choice in open_choices:
            choice.finished = "abort"
            self._observer.on_choice_end(self, choice)
        self._wake.set()

    def fail(self, failure: Failure) -> None:
        """End the whole request with an error."""
        if self._is_over:
            return
        self.failure = failure
        self.close()
        self._emit(failure)

    def usage(self) -> Usage:
        """Tokens so far, all attempts and choices together."""
        blind = self.query.max_tokens == 0
        resumed = self.job.resume.cached_tokens if self.job.resume else None
        firsts = self.choices[:: self.query.n]
        return Usage(
            prompt_tokens=sum(len(prompt.ids) for prompt in self.job.prompts),
            completion_tokens=0 if blind else sum(choice.text.count for choice in self.choices),
            cached_tokens=resumed if resumed is not None else sum(choice.cached or 0 for choice in firsts),
            reasoning_tokens=sum(choice.text.reasoning_count for choice in self.choices),
        )

    # -- for the supervisor (SequenceOwner) ----------------------------------------------------------------------

    def on_delta(self, sequence: Sequence, delta: Delta) -> None:
        """SequenceOwner."""
        if self._is_over:
            return
        choice = self._by_number[sequence.number]
        try:
            self._take(choice, delta)
        except Exception as error:
            log.exception("request %s failed", self.ticket.id)
            kind = type(error).__name__
            self.fail(Failure(500, "internal_error", f"the text of this request cannot be made: {kind}"))

    def on_refused(self, sequence: Sequence, refused: Refused) -> None:
        """SequenceOwner."""
        retryable = refused.status in (429, 503)
        if not self._is_over:
            self.refused_after_s = refused.retry_after_s
            self.fail(Failure(refused.status, refused.code, refused.message, retryable))

    def on_lost(self, epoch: int, cause: str) -> None:
        """SequenceOwner."""
        if not self._is_over:
            self._emit(Lost(epoch, cause))

    # -- inside --------------------------------------------------------------------------------------------------

    def _make_choice(self, index: int, had: list[int], ready: Ready) -> Choice:
        query = self.query
        prompt = self.job.prompts[index // query.n]
        rules = TextRules(
            stop=query.stop,
            include_stop=query.include_stop,
            skip_special=query.skip_special,
            min_tokens=query.sampling.min_tokens,
            splits_reasoning=self._side.reasons and query.route != "completions" and not query.raw,
            inside=prompt.inside,
            bare_answer=query.route == "inference",
            offset=len(self._echo_text(prompt)),
            keep_ids=self._side.tag_ids,
        )
        text = ChoiceText(self._side.tokenizer, rules)
        if had:
            text.feed(index, Delta(seq=0, ids=had))
        submit = Submit(
            seq=self._cores.next_number(),
            prompt_ids=prompt.ids,
            sampling=self._sampling(index, prompt, ready.max_model_len),
            output_ids=had,
            priority=query.priority,
            resumed=self.job.resume is not None,
            want_prompt_logprobs=not self._opened,
        )
        return Choice(index, prompt, text, Sequence(submit, self))

    def _echo_text(self, prompt: Prompt) -> str:
        if not self.query.echo:
            return ""
        return prompt.text if prompt.text is not None else self._side.tokenizer.decode(prompt.ids, skip_special=False)

    def _sampling(self, index: int, prompt: Prompt, max_model_len: int) -> Sampling:
        """Noise is drawn per choice of a prompt; prompts of one batch share it only when the client fixed the seed."""
        query = self.query
        seed = self.ticket.seed if query.seed is None else query.seed
        room = max_model_len - len(prompt.ids)
        return msgspec.structs.replace(
            query.sampling,
            seed=seed % (1 << 64),
            choice=index if query.seed is None else index % query.n,
            max_tokens=room if query.max_tokens is None else max(1, query.max_tokens),
        )

    def _launch(self, choice: Choice) -> None:
        """Submit a choice, unless what the client has of it is already all."""
        if choice.finished is not None:
            return
        ids, sampling = choice.sequence.ids, choice.sequence.submit.sampling
        ended = None
        if choice.text.stopped_by is not None or (
            len(ids) > sampling.min_tokens and ids and ids[-1] in sampling.stop_token_ids
        ):
            ended = "stop"
        elif len(ids) >= sampling.max_tokens:
            ended = "length"
        if ended is None:
            self._cores.submit(choice.sequence)
        else:
            self._take(choice, Delta(seq=choice.sequence.number, ids=[], finished=ended))

    def _take(self, choice: Choice, delta: Delta) -> None:
        if delta.finished == "error":
            self.fail(Failure(503, "engine_error", delta.error or "the engine cannot go on with this request"))
            return
        if delta.prompt_tops is not None:
            choice.prompt_tops = delta.prompt_tops
        if delta.cached_tokens is not None and choice.cached is None:
            choice.cached = delta.cached_tokens
        if delta.queue_s is not None and choice.queue_s is None:
            choice.queue_s = delta.queue_s
        had = choice.text.count
        piece = choice.text.feed(choice.index, delta)
        if choice.index == 0 and had == 0 and piece.ids:
            piece = _with_cached(piece, choice.cached)
        if piece.ids:
            self._observer.on_tokens(self, choice, len(piece.ids))
        if piece.finished is not None:
            choice.finished = piece.finished
            if delta.finished is None:
                self._cores.forget([choice.sequence])
            self._observer.on_choice_end(self, choice)
        self._emit(_without_output(piece) if self.query.max_tokens == 0 else piece)
        self._end_if_over()

    def _emit(self, event: Event) -> None:
        if isinstance(event, Piece) and not self._opened:
            self._held.append(event)
            self._open()
            return
        self._pending.append(event)
        self._wake.set()

    def _open(self) -> None:
        """Before the first piece: the openings of all choices together, so that a client has all of them or none."""
        wants_tops = self.query.sampling.prompt_logprobs is not None
        if wants_tops and any(choice.prompt_tops is None for choice in self.choices):
            return
        self._opened = True
        for choice in self.choices:
            text = self._echo_text(choice.prompt)
            self._pending.append(Opening(choice.index, choice.prompt.ids, text, choice.prompt_tops))
        self._pending.extend(self._held)
        self._held.clear()
        self._wake.set()

    def _expire(self) -> None:
        """The deadline: what there is is the answer; with nothing there, the queue was too long."""
        if self._is_over:
            return
        if not any(choice.text.count for choice in self.choices):
            self.fail(Failure(503, "deadline_exceeded", "the deadline passed before the first token"))
            return
        for choice in self.choices:
            if choice.finished is None:
                self._cores.forget([choice.sequence])
                self._take(choice, Delta(seq=choice.sequence.number, ids=[], finished="abort"))

    def _end_if_over(self) -> None:
        if not self._is_over and self.choices and all(choice.finished is not None for choice in self.choices):
            self._is_over = True
            if self._deadline is not None:
                self._deadline.cancel()
            self._emit(Done(self.usage()))


def _with_cached(piece: Piece, cached: int | None) -> Piece:
    return Piece(
        piece.choice, piece.ids, piece.text, piece.reasoning, piece.records, piece.finished, piece.stop_reason, cached
    )


def _without_output(piece: Piece) -> Piece:
    """max_tokens 0 asks for the prompt's logprobs alone; the one token the core made for them is not shown."""
    return Piece(piece.choice, [], "", "", (), "length" if piece.finished else None)


def check_resume(job: Job) -> None:
    """Raises RequestError when a resume speaks of choices the request does not have, or of ids out of range."""
    if job.resume is None:
        return
    count = len(job.prompts) * job.query.n
    indices = [choice.index for choice in job.resume.choices]
    if len(set(indices)) != len(indices) or any(not 0 <= index < count for index in indices):
        raise RequestError(f"resume.choices names {indices}; the request has choices 0 … {count - 1}", param="resume")
