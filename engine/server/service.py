"""What the routes share: one model's text side, its supervisor and metrics, and how a request is admitted."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from engine.server.checkpoint import TextSide
from engine.server.events import Ticket
from engine.server.generation import Generation, Job, check_resume
from engine.server.logprobs import LogprobShapes
from engine.server.metrics import Metrics
from engine.server.options import Options
from engine.server.prompts import PromptMaker
from engine.server.query import Limits, Query, parse_query
from engine.server.shapes import Shape, make_shape
from engine.server.supervision.supervisor import Supervisor
from engine.spec.attempt import Failure, Resume, Route
from engine.spec.errors import RequestError

_PREFIX: dict[str, str] = {"chat": "chatcmpl-", "completions": "cmpl-", "inference": "inf-"}


@dataclass(frozen=True, slots=True)
class Wish:
    """A body with its envelope: a direct request's own, or what a gateway decided."""

    route: Route
    body: dict[str, object]
    ticket: Ticket
    resume: Resume | None = None


class Service:
    """Admits requests and runs them."""

    def __init__(self, options: Options, side: TextSide, supervisor: Supervisor, metrics: Metrics) -> None:
        self.options = options
        self.side = side
        self.supervisor = supervisor
        self.metrics = metrics
        self.prompts = PromptMaker(side)
        self.open: set[Generation] = set()
        self.is_over = False
        self.started_at = int(time.time())
        self._logprobs = LogprobShapes(side.tokenizer)

    @property
    def max_model_len(self) -> int:
        """The context in tokens; the core's word once it has spoken."""
        ready = self.supervisor.ready
        return ready.max_model_len if ready is not None else self.side.max_model_len

    def limits(self) -> Limits:
        """What bodies are checked against."""
        return Limits(self.options.model_name, self.side.vocab_size, self.side.eos_ids, self.max_model_len)

    def make_ticket(self, route: Route, deadline_ms: int | None) -> Ticket:
        """Identity of a direct request."""
        return Ticket(
            id=_PREFIX[route] + secrets.token_hex(12),
            created=int(time.time()),
            seed=secrets.randbits(63),
            deadline_ms=deadline_ms,
        )

    def admit(self, count: int) -> None:
        """Room for `count` more sequences, or RequestError 503; cheap enough to ask before a body is read."""
        try:
            self.supervisor.admit(count)
        except RequestError as error:
            self.metrics.on_rejection(error.code)
            raise

    async def begin(self, wish: Wish) -> tuple[Generation, Shape]:
        """Check, tokenise, admit and start. Raises RequestError."""
        query = parse_query(wish.route, wish.body, self.limits())
        prompts = await self.prompts.make(query, self.max_model_len)
        job = Job(query, prompts, wish.ticket, self._checked(wish.resume))
        check_resume(job)
        self.admit(0 if wish.resume is not None else len(prompts) * query.n)  # what was begun is never turned away
        ready = self.supervisor.ready
        assert ready is not None
        generation = Generation(job, self.side, self.supervisor, self.metrics)
        generation.start(ready)
        self.metrics.on_request(generation)
        self.open.add(generation)
        return generation, self._shape(query, wish.ticket)

    def end(self, generation: Generation) -> None:
        """The answer is written, or nobody wants it."""
        generation.close()
        self.open.discard(generation)

    def end_all(self) -> None:
        """The process ends: whoever is still open gets an explicit error, and progress is told no more."""
        self.is_over = True
        for generation in list(self.open):
            generation.fail(Failure(503, "shutting_down", "this server is shutting down; try again", retryable=True))

    def _shape(self, query: Query, ticket: Ticket) -> Shape:
        return make_shape(query, ticket, self.options.model_name, self._logprobs)

    def _checked(self, resume: Resume | None) -> Resume | None:
        for choice in resume.choices if resume is not None else ():
            if any(not 0 <= token_id < self.side.vocab_size for token_id in choice.ids):
                raise RequestError(f"resume: choice {choice.index} has an id outside the vocabulary", param="resume")
        return resume
