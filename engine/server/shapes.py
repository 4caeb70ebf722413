"""What clients see: the chunks of a stream and the whole answer, for each of the three routes."""

from __future__ import annotations

from typing import Any, Protocol

from engine.server.choice import Piece, TokenRecord
from engine.server.events import Opening, Ticket
from engine.server.logprobs import LogprobShapes
from engine.server.query import Query
from engine.spec.attempt import Usage

Json = dict[str, Any]


class Shape(Protocol):
    """How one request's events look on its route."""

    def opening(self, opening: Opening) -> Json | None:
        """The chunk before a choice's first token, if the route or the request has one."""
        ...

    def chunk(self, piece: Piece, usage: Usage | None) -> Json | None:
        """The chunk of a piece; None when it shows nothing."""
        ...

    def usage_chunk(self, usage: Usage) -> Json:
        """The last chunk of a stream whose client asked for usage."""
        ...

    def whole(self, usage: Usage) -> Json:
        """The answer in one piece, from all openings and pieces given to `collect`."""
        ...

    def collect(self, event: Opening | Piece) -> None:
        """Keep an event for `whole`."""
        ...


class Collected:
    """One choice put together."""

    def __init__(self) -> None:
        self.opening: Opening | None = None
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.records: list[TokenRecord] = []
        self.finished: str | None = None
        self.stop_reason: str | int | None = None

    def add(self, event: Opening | Piece) -> None:
        """Append an event of this choice."""
        if isinstance(event, Opening):
            self.opening = event
            return
        self.ids += event.ids
        self.texts.append(event.text)
        self.reasonings.append(event.reasoning)
        self.records += event.records
        if event.finished is not None:
            self.finished, self.stop_reason = event.finished, event.stop_reason


class _Base:
    """Envelope and collection, the same on all routes."""

    chunk_object = ""
    whole_object = ""

    def __init__(self, query: Query, ticket: Ticket, model: str, logprobs: LogprobShapes) -> None:
        self.query = query
        self.logprobs = logprobs
        self._head = {"id": ticket.id, "created": ticket.created, "model": model}
        self._collected: dict[int, Collected] = {}

    def collect(self, event: Opening | Piece) -> None:
        """Shape."""
        self._collected.setdefault(event.choice, Collected()).add(event)

    def usage_chunk(self, usage: Usage) -> Json:
        """Shape."""
        return {**self._head, "object": self.chunk_object, "choices": [], "usage": usage.for_clients()}

    def collected(self) -> list[tuple[int, Collected]]:
        """Choices in order."""
        return sorted(self._collected.items())

    def envelope(self, choices: list[Json], usage: Usage | None) -> Json:
        """A chunk around its choices; `usage` is shown in every chunk when the client asked for that."""
        chunk: Json = {**self._head, "object": self.chunk_object, "choices": choices}
        if self.query.continuous_usage and usage is not None:
            chunk["usage"] = usage.for_clients()
        elif self.query.include_usage:
            chunk["usage"] = None
        return chunk

    def finished_chunk(self, choice: Json, piece: Piece, usage: Usage | None) -> Json:
        """The chunk around a choice, with what every route's choice ends with."""
        if self.query.return_token_ids:
            choice["token_ids"] = piece.ids
        if piece.finished is not None:
            choice["stop_reason"] = piece.stop_reason
        return self.envelope([choice], usage)

    def whole_envelope(self, choices: list[Json], usage: Usage) -> Json:
        """The whole answer around its choices."""
        return {**self._head, "object": self.whole_object, "choices": choices, "usage": usage.for_clients()}

    def shows(self, piece: Piece) -> bool:
        """Whether a piece has anything to show."""
        asked = piece.ids and (self.query.return_token_ids or self.query.logprobs is not None)
        return bool(piece.text or piece.reasoning or piece.finished or asked)

    def about_prompt(self, opening: Opening) -> Json:
        """What was asked about the prompt."""
        about: Json = {}
        if self.query.return_token_ids:
            about["prompt_token_ids"] = opening.prompt_ids
        if self.query.prompt_logprobs is not None and opening.prompt_tops is not None:
            about["prompt_logprobs"] = self.logprobs.prompt(opening.prompt_ids, opening.prompt_tops)
        return about


class ChatShape(_Base):
    """/v1/chat/completions."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def opening(self, opening: Opening) -> Json | None:
        """Shape: the role, and what was asked about the prompt."""
        choice = {"index": opening.choice, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return {**self.envelope([choice], None), **self.about_prompt(opening)}

    def chunk(self, piece: Piece, usage: Usage | None) -> Json | None:
        """Shape."""
        if not self.shows(piece):
            return None
        delta: Json = {}
        if piece.reasoning:
            delta["reasoning_content"] = delta["reasoning"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        choice: Json = {"index": piece.choice, "delta": delta, "finish_reason": piece.finished}
        if self.query.logprobs is not None:
            choice["logprobs"] = self.logprobs.chat(list(piece.records), self.query.logprobs)
        return self.finished_chunk(choice, piece, usage)

    def whole(self, usage: Usage) -> Json:
        """Shape."""
        answer = self.whole_envelope([self._whole_choice(index, choice) for index, choice in self.collected()], usage)
        first = self._collected[0].opening
        return {**answer, **self.about_prompt(first)} if first is not None else answer

    def _whole_choice(self, index: int, choice: Collected) -> Json:
        reasoning = "".join(choice.reasonings) or None
        message = {
            "role": "assistant",
            "content": "".join(choice.texts),
            "reasoning_content": reasoning,
            "reasoning": reasoning,
        }
        shown: Json = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": choice.finished,
            "stop_reason": choice.stop_reason,
        }
        if self.query.logprobs is not None:
            shown["logprobs"] = self.logprobs.chat(choice.records, self.query.logprobs)
        if self.query.return_token_ids:
            shown["token_ids"] = choice.ids
        return shown


class CompletionShape(_Base):
    """/v1/completions."""

    chunk_object = "text_completion"
    whole_object = "text_completion"

    def opening(self, opening: Opening) -> Json | None:
        """Shape: the echoed prompt, and what was asked about it."""
        query = self.query
        if not (query.echo or query.return_token_ids or query.prompt_logprobs is not None):
            return None
        choice: Json = {"index": opening.choice, "text": opening.prompt_text, "finish_reason": None}
        records = self._echoed(opening)
        if query.logprobs is not None:
            choice["logprobs"] = self.logprobs.completion(records, query.logprobs) if records else None
        choice |= self.about_prompt(opening)
        if query.return_token_ids:
            choice["token_ids"] = []
        chunk = self.envelope([choice], None)
        return chunk | ({"prompt_token_ids": opening.prompt_ids} if query.return_token_ids else {})

    def chunk(self, piece: Piece, usage: Usage | None) -> Json | None:
        """Shape."""
        if not self.shows(piece):
            return None
        choice: Json = {"index": piece.choice, "text": piece.text, "logprobs": None, "finish_reason": piece.finished}
        if self.query.logprobs is not None and piece.records:
            choice["logprobs"] = self.logprobs.completion(list(piece.records), self.query.logprobs)
        return self.finished_chunk(choice, piece, usage)

    def whole(self, usage: Usage) -> Json:
        """Shape."""
        answer = self.whole_envelope([self._whole_choice(index, choice) for index, choice in self.collected()], usage)
        first = self._collected[0].opening
        if self.query.return_token_ids and first is not None:
            answer["prompt_token_ids"] = first.prompt_ids
        return answer

    def _whole_choice(self, index: int, choice: Collected) -> Json:
        query, opening = self.query, choice.opening
        assert opening is not None
        shown: Json = {
            "index": index,
            "text": opening.prompt_text + "".join(choice.texts),
            "logprobs": None,
            "finish_reason": choice.finished,
            "stop_reason": choice.stop_reason,
        }
        if query.logprobs is not None:
            shown["logprobs"] = self.logprobs.completion([*self._echoed(opening), *choice.records], query.logprobs)
        if query.return_token_ids:
            shown["token_ids"] = choice.ids
        return shown | self.about_prompt(opening)

    def _echoed(self, opening: Opening) -> list[TokenRecord]:
        if not self.query.echo or self.query.logprobs is None or opening.prompt_tops is None:
            return []
        return self.logprobs.prompt_records(opening.prompt_ids, opening.prompt_tops, opening.prompt_text)


class InferenceShape(_Base):
    """/v1/inference: a text in, a text out."""

    chunk_object = "inference.chunk"
    whole_object = "inference"

    def opening(self, opening: Opening) -> Json | None:
        """Shape: none."""
        del opening
        return None

    def chunk(self, piece: Piece, usage: Usage | None) -> Json | None:
        """Shape."""
        del usage
        if not (piece.text or piece.finished):
            return None
        return {**self._head, "object": self.chunk_object, "text": piece.text, "finish_reason": piece.finished}

    def usage_chunk(self, usage: Usage) -> Json:
        """Shape."""
        return {
            **self._head, "object": self.chunk_object, "text": "", "finish_reason": None, "usage": usage.for_clients()
        }  # fmt: skip

    def whole(self, usage: Usage) -> Json:
        """Shape."""
        choice = self._collected[0]
        return {
            **self._head,
            "object": self.whole_object,
            "text": "".join(choice.texts),
            "finish_reason": choice.finished,
            "usage": usage.for_clients(),
        }


def make_shape(query: Query, ticket: Ticket, model: str, logprobs: LogprobShapes) -> Shape:
    """The shape of a request's route."""
    kind = {"chat": ChatShape, "completions": CompletionShape, "inference": InferenceShape}[query.route]
    return kind(query, ticket, model, logprobs)
