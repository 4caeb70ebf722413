"""Texts to judge a model on: a file of the user's, or the documentation that every Python brings along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.calibrate.measure import Sample
from engine.spec.errors import CheckpointError, ConfigError
from engine.spec.model import ModelSpec
from engine.text.tokenizer import Tokenizer

WINDOW: Final = 256  # tokens of one sample


def samples(model: Path, spec: ModelSpec, text: Path | None, tokens: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to choose a policy by and as many to judge it by, `tokens` predicted tokens each, no window in both.

    Raises CheckpointError without a tokenizer, ConfigError for a text that cannot be read or is too short.
    """
    tokenizer = Tokenizer.load(model, spec.vocab_size)
    if tokenizer.is_absent:
        raise CheckpointError(f"{model} has no tokenizer.json, without which no text can be read; copy it there")
    first = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    window = min(WINDOW, spec.max_positions) - len(first)
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    counts = [0, 0]
    for passage in _passages(text):
        ids = tokenizer.encode(passage, special=False)
        for at in range(0, len(ids), window):
            side = int(counts[1] < counts[0])
            sample = Sample((*first, *ids[at : at + window]))
            if len(sample.ids) < 8 or counts[side] >= tokens:
                continue
            parts[side].append(sample)
            counts[side] += len(sample.ids) - 1
        if min(counts) >= tokens:
            break
    if min(counts) < min(tokens, 256):
        raise ConfigError(
            f"{text or 'the text'} has only {sum(counts)} tokens; {2 * tokens} are needed, or fewer --tokens"
        )
    return parts


def _passages(path: Path | None) -> Iterator[str]:
    """Pieces of text: the `text` fields of a .jsonl file, any other file as a whole, or Python's manual."""
    if path is None:
        from pydoc_data.topics import topics

        yield from (topics[name] for name in sorted(topics, key=lambda name: name[::-1]))
        return
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the text {path} cannot be read: {error}") from error
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(filter(str.strip, content.splitlines()), 1):
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: line {number} is not an object with a text ({error!r})") from error
