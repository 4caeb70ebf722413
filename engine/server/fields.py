"""Checks single fields of a request body: the right type, within bounds, or a 400 that names the field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from engine.spec.errors import RequestError

Body = dict[str, Any]


def refuse(field: str, message: str) -> RequestError:
    """A 400 about one field."""
    return RequestError(f"{field}: {message}", code="invalid_value", param=field)


def unsupported(field: str, message: str) -> RequestError:
    """A 400 about a field this server does not know or serve."""
    return RequestError(message, code="unsupported_parameter", param=field)


def brief(value: Any) -> str:
    """A value as an error message may show it."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"


def integer(body: Body, name: str, default: int | None, low: int, high: int) -> Any:
    """An integer in [low, high]; null and absent give the default."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(name, f"an integer was expected, not {brief(value)}")
    if not low <= value <= high:
        raise refuse(name, f"{brief(value)} is outside {low} … {high}")
    return value


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number; `open_low` excludes the lower bound."""

    low: float
    high: float
    open_low: bool = False


def number(body: Body, name: str, default: float, bounds: Range) -> float:
    """A finite number within bounds; null and absent give the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refuse(name, f"a number was expected, not {brief(value)}")
    low_ok = value > bounds.low if bounds.open_low else value >= bounds.low
    if not (low_ok and value <= bounds.high) or not math.isfinite(value):
        left = "(" if bounds.open_low else "["
        raise refuse(name, f"{brief(value)} is outside {left}{bounds.low:g}, {bounds.high:g}]")
    return float(value)


def flag(body: Body, name: str, default: bool = False) -> bool:
    """true or false; null and absent give the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refuse(name, f"true or false was expected, not {brief(value)}")
    return value


def mapping(body: Body, name: str) -> Body:
    """An object; null and absent give {}."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse(name, f"an object was expected, not {brief(value)}")
    return cast("Body", value)


def stop_strings(body: Body, name: str = "stop") -> tuple[str, ...]:
    """Up to 16 stop strings of 1 to 256 bytes; one string stands for a list of one."""
    value = body.get(name)
    if value is None:
        return ()
    entries = cast("list[Any]", value) if isinstance(value, list) else [value]
    if len(entries) > 16:
        raise refuse(name, f"{len(entries)} strings given; at most 16 are allowed")
    for entry in entries:
        if not isinstance(entry, str):
            raise refuse(name, f"a string or a list of strings was expected, not {brief(entry)}")
        if not 1 <= len(entry.encode("utf-8")) <= 256:
            raise refuse(name, "each stop string must have 1 to 256 bytes")
    return tuple(cast("list[str]", entries))


def token_ids(value: Any, name: str, vocab_size: int, most: int) -> list[int]:
    """A list of token ids of this model's vocabulary."""
    if not isinstance(value, list):
        raise refuse(name, f"a list of token ids was expected, not {brief(value)}")
    ids = cast("list[Any]", value)
    if len(ids) > most:
        raise refuse(name, f"{len(ids)} token ids given; at most {most} are allowed")
    for token_id in ids:
        if type(token_id) is not int:
            raise refuse(name, f"a token id was expected, not {brief(token_id)}")
        if not 0 <= token_id < vocab_size:
            raise refuse(name, f"token id {brief(token_id)} is outside the vocabulary of {vocab_size}")
    return ids


def logit_bias(body: Body, vocab_size: int) -> dict[int, float]:
    """{"token id": bias in [-100, 100]}, at most 1024 entries."""
    entries = mapping(body, "logit_bias")
    if len(entries) > 1024:
        raise refuse("logit_bias", f"{len(entries)} entries given; at most 1024 are allowed")
    biases: dict[int, float] = {}
    for key, value in entries.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 12 and int(key) < vocab_size):
            raise refuse("logit_bias", f"{brief(key)} is not a token id below {vocab_size}")
        biases[int(key)] = number({"logit_bias": value}, "logit_bias", 0.0, Range(-100.0, 100.0))
    return biases
