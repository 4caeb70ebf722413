"""Splits a model's text into its reasoning (between think tags) and its answer, also when a tag is cut in two."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

OPEN = "<think>"
CLOSE = "</think>"


class _State(Enum):
    START = auto()  # nothing but white space so far: an opening tag may still come
    REASONING = auto()
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class Parts:
    """A piece of text, split; either may be empty."""

    reasoning: str = ""
    answer: str = ""


def starts_in_reasoning(generation_prompt: str) -> bool:
    """Whether the part of a prompt that opens the assistant's turn ends inside a think tag."""
    return generation_prompt.rfind(OPEN) > generation_prompt.rfind(CLOSE)


def _held_suffix(text: str, tag: str) -> int:
    """Length of the longest suffix of `text` that begins `tag` without completing it."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[len(text) - length :]):
            return length
    return 0


class ReasoningParser:
    """State machine over pieces of text; `inside` tells where the next piece would go."""

    def __init__(self, *, inside: bool) -> None:
        self._state = _State.REASONING if inside else _State.START
        self._held = ""

    @property
    def inside(self) -> bool:
        """Whether the text is in its reasoning part now."""
        return self._state is _State.REASONING

    def feed(self, text: str) -> Parts:
        """Split one piece; what may be the beginning of a tag is held back."""
        window, self._held = self._held + text, ""
        if self._state is _State.START:
            window = self._enter(window)
        if self._state is _State.REASONING:
            return self._leave(window)
        return Parts(answer=window)

    def finish(self) -> Parts:
        """What is held back, as text of the part it stands in."""
        held, self._held = self._held, ""
        return Parts(reasoning=held) if self.inside else Parts(answer=held)

    def _enter(self, window: str) -> str:
        """In START: an opening tag leads to REASONING, other text to ANSWER; returns the text to go on with."""
        lead = window.lstrip()
        if lead.startswith(OPEN):
            self._state = _State.REASONING
            return lead[len(OPEN) :]
        if OPEN.startswith(lead):  # also when there is only white space
            self._held = window
            return ""
        self._state = _State.ANSWER
        return window

    def _leave(self, window: str) -> Parts:
        """In REASONING: everything up to the closing tag is reasoning, the rest is the answer."""
        at = window.find(CLOSE)
        if at >= 0:
            self._state = _State.ANSWER
            return Parts(reasoning=window[:at], answer=window[at + len(CLOSE) :])
        keep = _held_suffix(window, CLOSE)
        self._held = window[len(window) - keep :]
        return Parts(reasoning=window[: len(window) - keep])
