"""What can be served at all: a sequence that never could is refused before it costs anything, with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from engine.spec.errors import RequestError
from engine.wire.messages import Sampling, Submit


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sequence may ask for, in tokens."""

    vocab_size: int
    max_model_len: int
    kv_tokens: int  # the whole cache


def check(submit: Submit, limits: Limits) -> None:
    """Raise RequestError (400) when the sequence could never run, even alone on an idle engine."""
    _check_length(submit, limits)
    _check_ids("prompt", submit.prompt_ids, limits.vocab_size)
    _check_ids("output_ids", submit.output_ids, limits.vocab_size)
    _check_sampling(submit.sampling, limits.vocab_size)


def _check_length(submit: Submit, limits: Limits) -> None:
    prompt, output = len(submit.prompt_ids), submit.sampling.max_tokens
    if not prompt:
        raise RequestError("the prompt is empty; send at least one token", code="empty_prompt", param="prompt")
    if output < 0:
        raise RequestError(f"max_tokens is {output}; it must be 0 or more", param="max_tokens")
    for limit, what, code in (
        (limits.max_model_len, "the model's context", "context_length_exceeded"),
        (limits.kv_tokens, "the whole cache", "kv_cache_exceeded"),
    ):
        if prompt + output > limit:
            raise RequestError(
                f"{prompt} prompt tokens + max_tokens {output} = {prompt + output} exceed {what} of {limit} tokens; "
                f"{'shorten the prompt' if prompt >= limit else f'ask for at most {limit - prompt} tokens'}",
                code=code,
                param="max_tokens" if prompt < limit else "prompt",
            )


def _check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise RequestError(
            f"{name} holds token id {wrong}; ids of this model are 0 … {vocab_size - 1}",
            code="invalid_token_id",
            param=name,
        )


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    rules = (
        ("seed", 0 <= sampling.seed < 1 << 64, "0 … 2**64 - 1"),
        ("choice", 0 <= sampling.choice < 1 << 32, "0 … 2**32 - 1"),
        ("temperature", isfinite(sampling.temperature) and sampling.temperature >= 0, "0 or more"),
        ("top_p", 0 < sampling.top_p <= 1, "in (0, 1]"),
        ("min_p", 0 <= sampling.min_p <= 1, "in [0, 1]"),
        ("presence_penalty", isfinite(sampling.presence_penalty), "a finite number"),
        ("frequency_penalty", isfinite(sampling.frequency_penalty), "a finite number"),
        ("repetition_penalty", isfinite(sampling.repetition_penalty) and sampling.repetition_penalty > 0, "above 0"),
        ("logprobs", sampling.logprobs is None or sampling.logprobs >= 0, "0 or more"),
        ("prompt_logprobs", sampling.prompt_logprobs is None or sampling.prompt_logprobs >= 0, "0 or more"),
    )
    for name, is_right, want in rules:
        if not is_right:
            raise RequestError(f"{name} is {getattr(sampling, name)}; it must be {want}", param=name)
    _check_ids("logit_bias", list(sampling.logit_bias), vocab_size)
    if not all(map(isfinite, sampling.logit_bias.values())):
        raise RequestError("logit_bias holds a value that is not a finite number", param="logit_bias")
