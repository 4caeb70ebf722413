"""Renders a conversation into the prompt text a model was trained on, with the checkpoint's own Jinja template."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.spec.errors import CheckpointError, RequestError
from engine.text.tokenizer import Tokenizer

Message = dict[str, Any]


class _GenerationTag(Extension):
    """Accepts {% generation %} … {% endgeneration %}, a marker for training that changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, and the part of it that opens the assistant's turn (the rest of the prompt is `text` without it)."""

    text: str
    generation_prompt: str


class ChatTemplate:
    """A compiled chat template. It runs sandboxed: it can compute text and nothing else."""

    def __init__(self, source: str, special_texts: dict[str, str]) -> None:
        environment: Any = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        try:
            self._render: Callable[..., str] = environment.from_string(source).render
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the chat template does not compile: {error}") from error
        self._special_texts = special_texts
        self.source = source

    @classmethod
    def load(cls, directory: str | Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The checkpoint's template (chat_template.jinja, else tokenizer_config.json), or None when it has none."""
        path = Path(directory) / "chat_template.jinja"
        source: Any = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.settings.get("chat_template")
        if isinstance(source, list):
            named = cast("list[dict[str, Any]]", source)
            source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        return cls(source, tokenizer.special_texts) if isinstance(source, str) and source else None

    def render(self, messages: list[Message], extra: dict[str, Any] | None = None) -> Rendered:
        """The prompt for the assistant's next turn. Raises RequestError when the template refuses the messages."""
        text = self._run(messages, extra or {}, generation=True)
        try:
            before = self._run(messages, extra or {}, generation=False)
        except RequestError:
            before = ""
        return Rendered(text, text.removeprefix(before) if before else text)

    def _run(self, messages: list[Message], extra: dict[str, Any], *, generation: bool) -> str:
        variables = {**extra, **self._special_texts, "messages": messages, "add_generation_prompt": generation}
        try:
            return self._render(**variables)
        except jinja2.TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from error
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
            raise RequestError(f"the chat template cannot render these messages: {error}", param="messages") from error
