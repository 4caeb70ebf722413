"""What an API process needs of a checkpoint: its text side and the few sizes that requests are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.spec.config import EngineConfig
from engine.spec.errors import CheckpointError
from engine.text.reasoning import CLOSE, OPEN
from engine.text.template import ChatTemplate
from engine.text.tokenizer import Tokenizer, read_json


@dataclass(frozen=True, slots=True)
class TextSide:
    """Tokenizer, template and ids of one model; `max_model_len` is what the files say, before the core's word."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocab_size: int
    eos_ids: tuple[int, ...]
    max_model_len: int
    reasons: bool  # the model marks its reasoning with think tags
    tag_ids: frozenset[int]


def load_text_side(config: EngineConfig) -> TextSide:
    """Read the small files of a checkpoint. Raises CheckpointError naming the file that is wrong."""
    directory = Path(config.model)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; give the directory that holds config.json")
    settings = read_json(directory / "config.json")
    if not settings:
        raise CheckpointError(f"{directory / 'config.json'} is missing or empty; it describes the model")
    vocab_size = _positive(settings, "vocab_size", directory)
    longest = _positive(settings, "max_position_embeddings", directory)
    tokenizer = Tokenizer.load(directory, vocab_size)
    template = ChatTemplate.load(directory, tokenizer)
    tags = [tokenizer.id_of(tag) for tag in (OPEN, CLOSE)]
    return TextSide(
        tokenizer=tokenizer,
        template=template,
        vocab_size=vocab_size,
        eos_ids=_eos_ids(settings, read_json(directory / "generation_config.json"), tokenizer),
        max_model_len=min(config.max_model_len or longest, longest),
        reasons=None not in tags or (template is not None and CLOSE in template.source),
        tag_ids=frozenset(tag for tag in tags if tag is not None),
    )


def _positive(settings: dict[str, Any], name: str, directory: Path) -> int:
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{directory / 'config.json'}: {name} is {value!r}; a positive integer was expected")
    return value


def _eos_ids(settings: dict[str, Any], generation: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """End-of-sequence ids: generation_config.json goes before config.json, the tokenizer's own is always one."""
    value = generation.get("eos_token_id", settings.get("eos_token_id"))
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    ids = [item for item in [*values, tokenizer.eos_id] if isinstance(item, int) and not isinstance(item, bool)]
    return tuple(dict.fromkeys(ids))
