"""Turns text into token ids and knows what each id looks like; one per process, read from a checkpoint's files."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import tokenizers

from engine.spec.errors import CheckpointError, RequestError
from engine.text.bytelevel import is_byte_level, token_bytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint file; {} when the file is absent. Raises CheckpointError when it is not one."""
    if not path.is_file():
        return {}
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; copy the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, an object was expected")
    return cast("dict[str, Any]", value)


def _special_text(value: Any) -> str | None:
    """The text of bos_token and its kind, which files write as a string or as {"content": …}."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) and value else None


class Tokenizer:
    """Encodes text and describes ids. `vocab_size` counts every id the model may produce, named or not."""

    def __init__(self, inner: tokenizers.Tokenizer, settings: dict[str, Any], vocab_size: int = 0) -> None:
        self._inner = inner
        self.settings = settings
        self.is_absent = inner.get_vocab_size(with_added_tokens=True) == 0
        self.vocab_size = max(vocab_size, inner.get_vocab_size(with_added_tokens=True))
        self.special_texts = {
            name: text for name, value in settings.items() if name.endswith("_token") and (text := _special_text(value))
        }
        self.bos_token = self.special_texts.get("bos_token")
        self.eos_token = self.special_texts.get("eos_token")
        self.bos_id = inner.token_to_id(self.bos_token) if self.bos_token else None
        self.eos_id = inner.token_to_id(self.eos_token) if self.eos_token else None
        self._add_bos = bool(settings.get("add_bos_token")) and self.bos_id is not None
        self.special_ids = frozenset(
            token_id for token_id, token in inner.get_added_tokens_decoder().items() if token.special
        )
        self.byte_level = is_byte_level(json.loads(inner.to_str()).get("decoder"))
        self._bytes_of = lru_cache(maxsize=1 << 16)(self._make_bytes)
        self.longest_token = max((len(text) for text in inner.get_vocab(with_added_tokens=True)), default=1)

    @classmethod
    def load(cls, directory: str | Path, vocab_size: int = 0) -> Tokenizer:
        """Read tokenizer.json and tokenizer_config.json. Raises CheckpointError when the tokenizer is unusable.

        A checkpoint without tokenizer.json is served by token ids alone: `is_absent` is True and encode refuses.
        """
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            return cls(tokenizers.Tokenizer(tokenizers.models.WordLevel({}, unk_token="")), {}, vocab_size)
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
        inner.no_padding()
        inner.no_truncation()
        settings = read_json(Path(directory) / "special_tokens_map.json") | read_json(
            Path(directory) / "tokenizer_config.json"
        )
        return cls(inner, settings, vocab_size)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`; with `special` also what the tokenizer puts around it, such as a leading BOS.

        Raises RequestError when the checkpoint has no tokenizer.
        """
        if self.is_absent:
            message = "this checkpoint has no tokenizer.json, so text cannot be read; send the prompt as token ids"
            raise RequestError(message, code="no_tokenizer", param="prompt")
        ids = self._inner.encode(text, add_special_tokens=special).ids
        if special and self._add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: list[int], *, skip_special: bool) -> str:
        """Text of whole ids, as one string; broken UTF-8 becomes U+FFFD. Ids without a name are skipped."""
        return self._inner.decode(ids, skip_special_tokens=skip_special)

    def id_of(self, text: str) -> int | None:
        """The id of a token written exactly so, if there is one."""
        return self._inner.token_to_id(text)

    def bytes_of(self, token_id: int) -> bytes:
        """What this id adds to the text, as bytes; may be part of a character."""
        return self._bytes_of(token_id)

    def label(self, token_id: int) -> str:
        r"""A printable, unique name of a token for logprobs: its text, or "bytes:\xe2\x80" for part of a character."""
        data = self.bytes_of(token_id)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        return text if data else (self._inner.id_to_token(token_id) or f"token_id:{token_id}")

    def _make_bytes(self, token_id: int) -> bytes:
        token = self._inner.id_to_token(token_id)
        if token is None:
            return b""
        if self.byte_level:
            return token_bytes(token)
        return self._inner.decode([token_id], skip_special_tokens=False).encode("utf-8")
