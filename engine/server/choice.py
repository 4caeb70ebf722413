"""The text of one choice: ids in, shown text out, through detokeniser, stop strings and reasoning tags."""

from __future__ import annotations

from dataclasses import dataclass

from engine.text.detokenizer import make_detokenizer
from engine.text.reasoning import Parts, ReasoningParser
from engine.text.stop import StopStrings
from engine.text.tokenizer import Tokenizer
from engine.wire.messages import Delta, Top


@dataclass(frozen=True, slots=True)
class TextRules:
    """How ids become text for one request."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special: bool = True
    min_tokens: int = 0
    splits_reasoning: bool = False  # chat: reasoning and answer are two fields
    inside: bool = False  # the prompt ends inside the reasoning
    bare_answer: bool = False  # drop white space before the answer
    offset: int = 0  # characters before the first token: an echoed prompt
    keep_ids: frozenset[int] = frozenset()  # special ids that have text all the same: the think tags


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token as logprobs show it: `offset` is where its text begins, in characters of the choice's text."""

    token_id: int
    offset: int
    top: Top | None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one message of the core adds to one choice."""

    choice: int
    ids: list[int]
    text: str
    reasoning: str
    records: tuple[TokenRecord, ...] = ()
    finished: str | None = None
    stop_reason: str | int | None = None
    cached: int | None = None  # prompt tokens found in the prefix cache, with the first token of choice 0


class ChoiceText:
    """A pure function of the ids fed so far: feeding them one by one or all at once shows the same text."""

    def __init__(self, tokenizer: Tokenizer, rules: TextRules) -> None:
        self._rules = rules
        keep = rules.keep_ids if rules.splits_reasoning else frozenset[int]()
        self._detokenizer = make_detokenizer(tokenizer, skip_special=rules.skip_special, keep=keep)
        self._stops = StopStrings(rules.stop, include=rules.include_stop)
        self._parser = ReasoningParser(inside=rules.inside) if rules.splits_reasoning else None
        self._offset = rules.offset
        self._bare = rules.bare_answer
        self.count = 0  # ids so far
        self.reasoning_count = 0  # of these, ids of the reasoning
        self.stopped_by: str | None = None

    def feed(self, choice: int, delta: Delta) -> Piece:
        """Add the ids of a delta up to the one that completes a stop string; later ones are dropped."""
        texts: list[Parts] = []
        records: list[TokenRecord] = []
        taken = 0
        last = len(delta.ids) - 1
        for index, token_id in enumerate(delta.ids):
            if delta.tops is not None:
                records.append(TokenRecord(token_id, self._offset, delta.tops[index]))
            silent = index == last and delta.stop_id is not None
            texts.append(self._add(token_id, silent=silent))
            taken += 1
            if self.stopped_by is not None:
                break
        finished = delta.finished
        if self.stopped_by is None and finished is not None:
            texts.append(self._finish())
        if self.stopped_by is not None:
            finished = "stop"
            texts.append(self._split("", final=True))
        reason = self.stopped_by if self.stopped_by is not None else delta.stop_id
        return Piece(
            choice=choice,
            ids=delta.ids[:taken],
            text=self._strip("".join(part.answer for part in texts)),
            reasoning="".join(part.reasoning for part in texts),
            records=tuple(records),
            finished=finished,
            stop_reason=reason if finished == "stop" else None,
        )

    def _add(self, token_id: int, *, silent: bool) -> Parts:
        if self._parser is not None and self._parser.inside:
            self.reasoning_count += 1
        self.count += 1
        text = "" if silent else self._detokenizer.feed(token_id)
        self._offset += len(text)
        if self.count <= self._rules.min_tokens:
            return self._split(self._stops.skip(text))
        shown = self._stops.feed(text)
        self.stopped_by = self._stops.matched
        return self._split(shown)

    def _finish(self) -> Parts:
        shown = self._stops.feed(self._detokenizer.finish())
        self.stopped_by = self._stops.matched
        return self._split(shown + self._stops.finish(), final=True)

    def _split(self, text: str, *, final: bool = False) -> Parts:
        if self._parser is None:
            return Parts(answer=text)
        parts = self._parser.feed(text)
        if not final:
            return parts
        rest = self._parser.finish()
        return Parts(parts.reasoning + rest.reasoning, parts.answer + rest.answer)

    def _strip(self, answer: str) -> str:
        if self._bare:
            answer = answer.lstrip()
            self._bare = not answer
        return answer
