"""Every message that crosses the socket between an API process and its core.

A *sequence* is one choice of one request; the API process numbers them and never reuses a number.
A sequence ends in exactly one message with `finished` set, or in one Refused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.spec.config import EngineConfig

Finish = Literal["stop", "length", "abort", "error"]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens. Noise for vocabulary id v at output position i is Philox(seed, choice, i, v)."""

    seed: int  # 0 … 2**64 - 1
    max_tokens: int
    choice: int = 0
    temperature: float = 1.0  # 0: argmax
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()  # the model's eos ids included unless ignore_eos
    logprobs: int | None = None  # how many alternatives to report beside the chosen token
    prompt_logprobs: int | None = None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """First message to a core: what to load. A spare core imports everything and waits for it."""

    config: EngineConfig
    epoch: int
    faults: dict[str, float] = {}  # test switches, see engine/core/faults.py; empty in production


class Submit(msgspec.Struct, frozen=True, tag="submit", omit_defaults=True):
    """One sequence to generate; output_ids are tokens it already has (a replay), counted as output."""

    seq: int
    prompt_ids: list[int]
    sampling: Sampling
    output_ids: list[int] = []
    priority: int = 0  # smaller is served first
    queue_timeout_s: float | None = None  # overrides EngineConfig.queue_timeout_s
    resumed: bool = False  # it was admitted before: never refuse it for queue length, place it first in its priority
    want_prompt_logprobs: bool = True  # False on a replay whose client already has them


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget these sequences; each ends with finished="abort". Unknown numbers are ignored."""

    seqs: list[int]


class Quit(msgspec.Struct, frozen=True, tag="quit"):
    """End now; the API process has drained or given up."""


class ResetPrefixCache(msgspec.Struct, frozen=True, tag="reset_prefix_cache"):
    """Drop every cached block that no sequence uses."""


class Top(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of one position: natural log of the raw fp32 log-softmax, before temperature and penalties."""

    logprob: float  # of the token itself
    rank: int  # 1: it was the most likely
    ids: list[int]  # the k most likely
    logprobs: list[float]


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step added to one sequence."""

    seq: int
    ids: list[int]
    finished: Finish | None = None
    stop_id: int | None = None  # the stop token that ended it: it is the last of `ids`, and is never shown as text
    tops: list[Top] | None = None  # one per id when logprobs were asked for
    prompt_tops: list[Top | None] | None = None  # once, before or with the first id; None for position 0
    cached_tokens: int | None = None  # once, with the first delta
    queue_s: float | None = None  # once, with the first delta: time from arrival to first schedule
    error: str | None = None  # with finished="error": what went wrong with this sequence alone


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The core has loaded, checked itself and can step."""

    epoch: int
    numerics_id: str
    exact: bool
    reason: str  # why not exact; empty when exact
    max_model_len: int
    kv_total_tokens: int
    block_size: int
    load_s: float
    plan: dict[str, int]  # bytes: weights, cache, workspace


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Outcome of one step, sent after it is committed."""

    step: int
    deltas: list[Delta]
    seconds: float
    prompt_tokens: int  # prompt tokens computed in this step
    output_tokens: int
    expected_s: float = 0.0  # what `seconds` was expected to be; 0: nothing was, without a target or at the start


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A sequence that never started, with the numbers that say why."""

    seq: int
    status: int  # HTTP status to answer with
    code: str
    message: str
    retry_after_s: float | None = None


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Sent every 50 ms by a thread of its own; `step` and `in_step_s` tell work from a hang."""

    epoch: int
    beat: int
    step: int
    in_step_s: float  # age of the step now running, 0 when idle
    running: int
    waiting: int
    free_tokens: int  # cache tokens free or reclaimable
    cached_tokens: int
    preemptions: int
    prefix_queries: int  # prompt tokens looked up so far
    prefix_hits: int
    rss_bytes: int = 0


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The core cannot go on (bad checkpoint, no memory): exit_code is what the API process should end with."""

    exit_code: int
    kind: str
    message: str


ToCore = Start | Submit | Abort | Quit | ResetPrefixCache
ToServer = Ready | Step | Refused | Beat | Fatal
