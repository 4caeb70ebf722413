"""A client's request, checked: what it asks for, in the engine's own terms. Nothing unknown passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from engine.server.fields import (
    Body,
    Range,
    brief,
    flag,
    integer,
    logit_bias,
    mapping,
    number,
    refuse,
    stop_strings,
    token_ids,
    unsupported,
)
from engine.spec.attempt import Route
from engine.spec.errors import RequestError
from engine.wire.messages import Sampling

MOST_CHOICES = 8
MOST_LOGPROBS = 20
MOST_PROMPTS = 64
MOST_MESSAGES = 2048
_BIG = (1 << 31) - 1

_SAMPLING = frozenset({
    "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
    "skip_special_tokens", "min_tokens", "logit_bias", "stream", "stream_options", "priority",
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
})  # fmt: skip
_MANY = frozenset({"n", "best_of", "prompt_logprobs", "return_token_ids", "logprobs"})
_CHAT = frozenset({"messages", "top_logprobs", "max_completion_tokens", "chat_template_kwargs"})
KNOWN: dict[str, frozenset[str]] = {
    "chat": _SAMPLING | _MANY | _CHAT,
    "completions": _SAMPLING | _MANY | {"prompt", "echo"},
    "inference": _SAMPLING | {"text", "raw", "chat_template_kwargs"},
}
_HARMLESS: dict[str, tuple[Any, ...]] = {  # values of unserved fields that ask for nothing
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "suffix": ("",),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are checked against."""

    model_name: str
    vocab_size: int
    eos_ids: tuple[int, ...]
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Query:
    """One checked request; `sampling` still lacks the seed, the choice and the limit, which depend on the prompt."""

    route: Route
    sampling: Sampling
    prompts: tuple[str | list[int], ...]  # texts or ids; empty for chat
    messages: list[Body]
    template_extra: Body
    raw: bool  # the text is the prompt: no chat template
    n: int
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    include_stop: bool
    skip_special: bool
    echo: bool
    logprobs: int | None  # alternatives to report per token; None: no logprobs
    prompt_logprobs: int | None
    return_token_ids: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    priority: int


def parse_query(route: Route, body: Body, limits: Limits) -> Query:
    """Check a body against its route. Raises RequestError naming the field that is wrong."""
    _refuse_unknown(route, body)
    _check_labels(body, limits)
    max_tokens = _max_tokens(route, body)
    n = integer(body, "n", 1, 1, MOST_CHOICES)
    if integer(body, "best_of", n, 1, MOST_CHOICES) != n:
        raise unsupported("best_of", "best_of is served only when it equals n")
    logprobs = _logprobs(route, body)
    prompt_logprobs = integer(body, "prompt_logprobs", None, 0, MOST_LOGPROBS)
    stream = flag(body, "stream")
    include_usage, continuous_usage = _stream_options(body, stream)
    echo = flag(body, "echo")
    if max_tokens is not None and integer(body, "min_tokens", 0, 0, _BIG) > max(max_tokens, 0):
        raise refuse("min_tokens", f"{body['min_tokens']} is more than max_tokens, which is {max_tokens}")
    prompts = _prompts(body, limits) if route == "completions" else _inference_text(route, body)
    return Query(
        route=route,
        sampling=_sampling(body, limits, logprobs, logprobs if echo and prompt_logprobs is None else prompt_logprobs),
        prompts=prompts,
        messages=_messages(body) if route == "chat" else [],
        template_extra=mapping(body, "chat_template_kwargs"),
        raw=flag(body, "raw"),
        n=n,
        max_tokens=max_tokens,
        seed=integer(body, "seed", None, -(1 << 63), (1 << 64) - 1),
        stop=stop_strings(body),
        include_stop=flag(body, "include_stop_str_in_output"),
        skip_special=flag(body, "skip_special_tokens", default=True),
        echo=echo,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        return_token_ids=flag(body, "return_token_ids"),
        stream=stream,
        include_usage=include_usage,
        continuous_usage=continuous_usage,
        priority=integer(body, "priority", 0, -1_000_000, 1_000_000),
    )


def _refuse_unknown(route: Route, body: Body) -> None:
    known = KNOWN[route]
    for name, value in body.items():
        if name in known or value is None or value in _HARMLESS.get(name, ()):
            continue
        shown = name if len(name) <= 64 else name[:61] + "…"
        raise unsupported(shown, f"the field {shown!r} is not supported by this route")


def _check_labels(body: Body, limits: Limits) -> None:
    model = body.get("model")
    if model is not None:
        if not isinstance(model, str):
            raise refuse("model", f"a string was expected, not {brief(model)}")
        if model != limits.model_name:
            raise RequestError(
                f"the model {brief(model)} does not exist here; this server has {limits.model_name!r}",
                status=404,
                code="model_not_found",
                param="model",
            )
    for name in ("user", "service_tier", "safety_identifier", "prompt_cache_key"):
        if not isinstance(body.get(name), str | None):
            raise refuse(name, "a string was expected")
    mapping(body, "metadata")
    if flag(body, "store"):
        raise unsupported("store", "this server stores nothing; leave store out or set it to false")


def _max_tokens(route: Route, body: Body) -> int | None:
    """None: as many as fit. max_completion_tokens goes before max_tokens."""
    lowest = 0 if route == "completions" else 1
    limit = integer(body, "max_tokens", 16 if route == "completions" else None, lowest, _BIG)
    return integer(body, "max_completion_tokens", limit, lowest, _BIG)


def _logprobs(route: Route, body: Body) -> int | None:
    if route == "completions":
        return integer(body, "logprobs", None, 0, MOST_LOGPROBS)
    if route == "inference":
        return None
    top = integer(body, "top_logprobs", None, 0, MOST_LOGPROBS)
    if not flag(body, "logprobs"):
        if top:
            raise refuse("top_logprobs", "needs logprobs: true")
        return None
    return top or 0


def _stream_options(body: Body, stream: bool) -> tuple[bool, bool]:
    options = mapping(body, "stream_options")
    if options and not stream:
        raise refuse("stream_options", "is allowed only with stream: true")
    for name in options:
        if name not in ("include_usage", "continuous_usage_stats", "include_obfuscation"):
            raise unsupported("stream_options", f"the stream option {brief(name)} is not supported")
    if flag(options, "include_obfuscation"):
        raise unsupported("stream_options", "include_obfuscation is not supported")
    return flag(options, "include_usage"), flag(options, "continuous_usage_stats")


def _sampling(body: Body, limits: Limits, logprobs: int | None, prompt_logprobs: int | None) -> Sampling:
    temperature = number(body, "temperature", 1.0, Range(0.0, 2.0))
    top_k = integer(body, "top_k", 0, -1, _BIG)
    stops = token_ids(body.get("stop_token_ids") or [], "stop_token_ids", limits.vocab_size, 256)
    eos = () if flag(body, "ignore_eos") else limits.eos_ids
    return Sampling(
        seed=0,
        max_tokens=0,
        temperature=temperature if temperature >= 1e-5 else 0.0,  # below, logits / T overflows: it is argmax anyway
        top_p=number(body, "top_p", 1.0, Range(0.0, 1.0, open_low=True)),
        top_k=0 if top_k <= 0 or top_k >= limits.vocab_size else top_k,
        min_p=number(body, "min_p", 0.0, Range(0.0, 1.0)),
        presence_penalty=number(body, "presence_penalty", 0.0, Range(-2.0, 2.0)),
        frequency_penalty=number(body, "frequency_penalty", 0.0, Range(-2.0, 2.0)),
        repetition_penalty=number(body, "repetition_penalty", 1.0, Range(0.0, 10.0, open_low=True)),
        logit_bias=logit_bias(body, limits.vocab_size),
        min_tokens=integer(body, "min_tokens", 0, 0, _BIG),
        stop_token_ids=tuple(dict.fromkeys([*eos, *stops])),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _prompts(body: Body, limits: Limits) -> tuple[str | list[int], ...]:
    """Texts or id lists; a flat list of ids is one prompt, a list of strings or lists is several."""
    value = body.get("prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise refuse("prompt", f"texts, token ids or lists of token ids were expected, not {brief(value)}")
    entries = cast("list[Any]", value)
    if isinstance(entries[0], int) and not isinstance(entries[0], bool):
        return (_prompt_ids(entries, limits),)
    if len(entries) > MOST_PROMPTS:
        raise refuse("prompt", f"{len(entries)} prompts given; at most {MOST_PROMPTS} are allowed")
    if all(isinstance(entry, str) for entry in entries):
        return tuple(cast("list[str]", entries))
    return tuple(_prompt_ids(entry, limits) for entry in entries)


def _prompt_ids(value: Any, limits: Limits) -> list[int]:
    if isinstance(value, list) and len(cast("list[Any]", value)) > limits.max_model_len:
        raise too_long(len(cast("list[Any]", value)), 0, limits.max_model_len)
    return token_ids(value, "prompt", limits.vocab_size, limits.max_model_len)


def too_long(prompt_tokens: int, max_tokens: int, max_model_len: int) -> RequestError:
    """The 400 for a request that does not fit the context, with the numbers."""
    if max_tokens and prompt_tokens < max_model_len:
        message = (
            f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}, together more than the context of "
            f"{max_model_len}; ask for at most {max_model_len - prompt_tokens} tokens or shorten the prompt"
        )
    else:
        message = (
            f"the prompt has {prompt_tokens} tokens; the context of {max_model_len} leaves no room for an answer, "
            f"shorten it to {max_model_len - 1} tokens or fewer"
        )
    return RequestError(message, code="context_length_exceeded", param="prompt")


def _inference_text(route: Route, body: Body) -> tuple[str, ...]:
    if route != "inference":
        return ()
    text = body.get("text")
    if not isinstance(text, str):
        raise refuse("text", f"a string was expected, not {brief(text)}")
    return (text,)


def _messages(body: Body) -> list[Body]:
    value = body.get("messages")
    if not isinstance(value, list) or not value:
        raise refuse("messages", f"a list of messages was expected, not {brief(value)}")
    entries = cast("list[Any]", value)
    if len(entries) > MOST_MESSAGES:
        raise refuse("messages", f"{len(entries)} messages given; at most {MOST_MESSAGES} are allowed")
    return [_message(entry, index) for index, entry in enumerate(entries)]


def _message(value: Any, index: int) -> Body:
    where = f"message {index}"
    if not isinstance(value, dict):
        raise refuse("messages", f"{where} must be an object, not {brief(value)}")
    message = cast("Body", value)
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise refuse("messages", f"{where} has role {brief(role)}; system, developer, user or assistant was expected")
    content = _content(message.get("content"), where)
    result: Body = {"role": "system" if role == "developer" else role, "content": content}
    for name, extra in message.items():
        if name in ("role", "content") or extra is None or extra == []:
            continue
        if name not in ("name", "reasoning_content", "reasoning", "refusal"):
            raise unsupported("messages", f"{where}: the field {brief(name)} is not supported")
        if not isinstance(extra, str):
            raise refuse("messages", f"{where}: {name} must be a string")
        result[name] = extra
    return result


def _content(value: Any, where: str) -> str:
    """A message's text; parts of kind text are joined, other kinds are refused."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refuse("messages", f"{where}: content must be a string or a list of text parts, not {brief(value)}")
    texts: list[str] = []
    for part in cast("list[Any]", value):
        if not isinstance(part, dict):
            raise refuse("messages", f"{where}: a content part must be an object, not {brief(part)}")
        entry = cast("Body", part)
        if entry.get("type") != "text":
            kind = brief(entry.get("type"))
            raise unsupported("messages", f"{where}: content parts of type {kind} are not supported")
        if not isinstance(entry.get("text"), str):
            raise refuse("messages", f"{where}: a text part needs a string in text")
        texts.append(entry["text"])
    return "".join(texts)
