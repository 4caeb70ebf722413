"""Requests from files: a dataset of prompts, or a trace of when how much was asked; one JSON object a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from dsctl.base.errors import UsageError
from dsctl.bench.plan import Row

MOST_ROWS = 200_000


def read_dataset(path: Path) -> list[Row]:
    """Rows with `prompt` (or `text`) or `messages`, and perhaps `max_tokens` (or `output_tokens`)."""
    rows = [_prompt(told, path, line) for line, told in _lines(path)]
    if not rows:
        raise UsageError(f"{path} holds no prompts", hint='one object a line: {"prompt": "…", "max_tokens": 64}')
    return rows


def read_trace(path: Path) -> list[Row]:
    """Rows with `timestamp` (milliseconds) or `t` (seconds), `input_length`, `output_length` and perhaps `hash_ids`
    (512 prompt tokens each), or a prompt of their own; sorted by time, the first one at 0."""
    rows = sorted((_timed(told, path, line) for line, told in _lines(path)), key=lambda row: row.at)
    if not rows:
        raise UsageError(f"{path} holds no requests", hint='{"timestamp": 0, "input_length": 512, "output_length": 64}')
    first = rows[0].at
    return [msgspec.structs.replace(row, at=row.at - first) for row in rows]


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    found: list[tuple[int, dict[str, Any]]] = []
    line = 0
    try:
        with path.open("rb") as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    found.append((line, msgspec.json.decode(text, type=dict[str, Any])))
                if len(found) > MOST_ROWS:
                    raise UsageError(f"{path} has more than {MOST_ROWS} rows", hint=f"head -n {MOST_ROWS} it")
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=str(error)) from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}:{line} is no JSON object", why=str(error)) from error
    return found


def _prompt(told: dict[str, Any], path: Path, line: int) -> Row:
    try:
        prompt = told.get("prompt", told.get("text"))
        messages = cast("list[dict[str, Any]] | None", told.get("messages"))
        if messages is not None:
            messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in messages]
        if not messages:
            prompt = str(told["prompt"] if prompt is None else prompt)
        n_out = told.get("max_tokens", told.get("output_tokens", told.get("output_length")))
        return Row(prompt=None if messages else prompt, messages=messages, n_out=_length(n_out))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}:{line} is no request", why=f"{type(error).__name__}: {error}") from error


def _timed(told: dict[str, Any], path: Path, line: int) -> Row:
    try:
        at = float(told["t"]) if "t" in told else float(told["timestamp"]) / 1000
        if "prompt" in told or "messages" in told or "text" in told:
            return msgspec.structs.replace(_prompt(told, path, line), at=at)
        blocks = cast("list[int] | None", told.get("hash_ids"))
        return Row(at=at, n_in=_length(told["input_length"]), n_out=_length(told["output_length"]), blocks=blocks)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}:{line} is no request of a trace", why=f"{type(error).__name__}: {error}") from error


def _length(value: Any) -> int | None:
    if value is None:
        return None
    if int(value) < 1:
        raise ValueError(f"a length of {value}")
    return int(value)
