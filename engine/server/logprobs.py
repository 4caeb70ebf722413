"""Log-probabilities as the OpenAI routes show them."""

from __future__ import annotations

import codecs
from typing import Any

from engine.server.choice import TokenRecord
from engine.text.tokenizer import Tokenizer
from engine.wire.messages import Top

_LOWEST = -9999.0  # JSON has no -inf


class LogprobShapes:
    """Formats records of one model's tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._label = tokenizer.label
        self._bytes_of = tokenizer.bytes_of
        self._special_ids = tokenizer.special_ids

    def completion(self, records: list[TokenRecord], count: int) -> dict[str, Any]:
        """{tokens, token_logprobs, top_logprobs, text_offset}, with up to `count` alternatives beside the token."""
        tops = [record.top and self._alternatives(record.token_id, record.top, count) for record in records]
        return {
            "tokens": [self._label(record.token_id) for record in records],
            "token_logprobs": [record.top and max(record.top.logprob, _LOWEST) for record in records],
            "top_logprobs": tops,
            "text_offset": [record.offset for record in records],
        }

    def chat(self, records: list[TokenRecord], count: int) -> dict[str, Any]:
        """{"content": [{token, logprob, bytes, top_logprobs}]}."""
        content: list[dict[str, Any]] = []
        for record in records:
            assert record.top is not None
            pairs = list(zip(record.top.ids, record.top.logprobs, strict=False))[:count]
            entry = self._entry(record.token_id, record.top.logprob)
            content.append({**entry, "top_logprobs": [self._entry(token_id, value) for token_id, value in pairs]})
        return {"content": content, "refusal": None}

    def prompt(self, ids: list[int], tops: list[Top | None]) -> list[Any]:
        """null for the first token, then {token id: {logprob, rank, decoded_token}} for each."""
        return [None if top is None else self._ranked(token_id, top) for token_id, top in zip(ids, tops, strict=True)]

    def prompt_records(self, ids: list[int], tops: list[Top | None], text: str) -> list[TokenRecord]:
        """The tokens of a prompt whose text is `text` as records; a BOS that the tokenizer added has no text in it."""
        records: list[TokenRecord] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset = 0
        for index, (token_id, top) in enumerate(zip(ids, tops, strict=True)):
            records.append(TokenRecord(token_id, offset, top))
            data = self._bytes_of(token_id)
            leads = index == 0 and token_id in self._special_ids
            added = leads and not text.startswith(data.decode("utf-8", "replace"))
            offset += 0 if added else len(decoder.decode(data))
        return records

    def _alternatives(self, token_id: int, top: Top, count: int) -> dict[str, float]:
        shown: dict[str, float] = {}
        for other, value in list(zip(top.ids, top.logprobs, strict=False))[:count]:
            shown.setdefault(self._label(other), max(value, _LOWEST))
        shown.setdefault(self._label(token_id), max(top.logprob, _LOWEST))
        return shown

    def _entry(self, token_id: int, value: float) -> dict[str, Any]:
        data = self._bytes_of(token_id)
        return {"token": self._label(token_id), "logprob": max(value, _LOWEST), "bytes": list(data)}

    def _ranked(self, token_id: int, top: Top) -> dict[str, Any]:
        shown = {
            str(other): {"logprob": max(value, _LOWEST), "rank": rank, "decoded_token": self._label(other)}
            for rank, (other, value) in enumerate(zip(top.ids, top.logprobs, strict=False), 1)
        }
        shown.setdefault(
            str(token_id),
            {"logprob": max(top.logprob, _LOWEST), "rank": top.rank, "decoded_token": self._label(token_id)},
        )
        return shown
