"""Turns ids into text one at a time, holding back the bytes of a character until it is whole."""

from __future__ import annotations

import codecs
from typing import Protocol

from engine.text.tokenizer import Tokenizer

_WINDOW = 8  # ids of context that decoders which look at neighbours need before a cut
_UNDECODED = "\ufffd"


class Detokenizer(Protocol):
    """Text of a growing list of ids: the pieces joined are exactly the text of the whole list."""

    def feed(self, token_id: int) -> str:
        """The text this id completes; "" while a character is incomplete."""
        ...

    def finish(self) -> str:
        """What is still held back, incomplete characters as U+FFFD."""
        ...


class _ByteDetokenizer:
    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowDetokenizer:
    """For any other decoder: decode a short window twice and emit the difference."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._ids: list[int] = []
        self._read = 0  # ids of the window whose text has been emitted
        self._emitted = ""  # text of those ids

    def _text(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special=False)

    def feed(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        self._ids.append(token_id)
        whole = self._text()
        unfinished = whole.endswith(_UNDECODED) and len(self._ids) - self._read < _WINDOW
        if unfinished or len(whole) < len(self._emitted):
            return ""
        piece = whole[len(self._emitted) :]
        self._read = len(self._ids)
        self._emitted = whole
        if self._read > 4 * _WINDOW:
            self._ids = self._ids[-_WINDOW:]
            self._read, self._emitted = len(self._ids), self._text()
        return piece

    def finish(self) -> str:
        return self._text()[len(self._emitted) :] if self._read < len(self._ids) else ""


def make_detokenizer(tokenizer: Tokenizer, *, skip_special: bool, keep: frozenset[int] = frozenset()) -> Detokenizer:
    """A detokeniser for one sequence; with `skip_special` special tokens have no text, except the ids in `keep`."""
    skipped = tokenizer.special_ids - keep if skip_special else frozenset[int]()
    kind = _ByteDetokenizer if tokenizer.byte_level else _WindowDetokenizer
    return kind(tokenizer, skipped)
