"""Incremental text equals whole text, however characters and tags are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models

from engine.text.detokenizer import make_detokenizer
from engine.text.tokenizer import Tokenizer
from tests.engine.checkpoints import BOS, EOS, THINK, VOCAB, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The byte-level tokenizer of the tests."""
    path: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return Tokenizer.load(path, VOCAB)


def _joined(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> str:
    detokenizer = make_detokenizer(tokenizer, skip_special=skip)
    return "".join(detokenizer.feed(token_id) for token_id in ids) + detokenizer.finish()


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, VOCAB - 1), max_size=30), skip=st.booleans())
def test_pieces_join_to_the_whole(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    """Any ids, broken UTF-8 included: the pieces joined are what the tokenizer decodes at once."""
    assert _joined(tokenizer, ids, skip=skip) == tokenizer.decode(ids, skip_special=skip)


def test_a_character_appears_only_when_it_is_whole(tokenizer: Tokenizer) -> None:
    """The four bytes of an emoji give nothing, nothing, nothing, then the emoji."""
    detokenizer = make_detokenizer(tokenizer, skip_special=True)
    assert [detokenizer.feed(byte) for byte in "🌍".encode()] == ["", "", "", "🌍"]


def test_special_tokens_have_text_only_when_asked_for(tokenizer: Tokenizer) -> None:
    """skip_special hides BOS and EOS but not the think tags, which are ordinary added tokens."""
    assert _joined(tokenizer, [BOS, 65, THINK, EOS], skip=True) == "A<think>"
    assert _joined(tokenizer, [BOS, 65, THINK, EOS], skip=False) == "<|bos|>A<think><|eos|>"


def test_bos_is_added_once(tokenizer: Tokenizer) -> None:
    """add_bos_token puts BOS before a prompt, but not before one that has it."""
    assert tokenizer.encode("A", special=True) == [BOS, 65]
    assert tokenizer.encode("<|bos|>A", special=True) == [BOS, 65]
    assert tokenizer.encode("A", special=False) == [65]


def test_labels_are_unique_and_printable(tokenizer: Tokenizer) -> None:
    """Every id has its own name, also the bytes that are only part of a character."""
    labels = [tokenizer.label(token_id) for token_id in range(VOCAB)]
    assert len(set(labels)) == VOCAB
    assert tokenizer.label(0xE2) == "bytes:\\xe2"


WORDS = ["▁Grüße", "▁an", "▁dich", "!", "<0xF0>", "<0x9F>", "<0x8C>", "<0x8D>", "▁a", "▁", "n"]


@settings(max_examples=100, deadline=None)
@given(picks=st.lists(st.integers(0, len(WORDS) - 1), max_size=60))
def test_other_decoders_join_as_well(picks: list[int]) -> None:
    """A sentencepiece-like decoder, which looks at neighbours, gives the whole text as long as it is valid."""
    inner = Inner(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="n"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)  # type: ignore[assignment]
    tokenizer = Tokenizer(inner, {})
    assert not tokenizer.byte_level
    whole = tokenizer.decode(picks, skip_special=False)
    if "\ufffd" not in whole:
        assert _joined(tokenizer, picks, skip=False) == whole
