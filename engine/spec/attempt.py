"""The words a gateway and a replica exchange about one attempt at one request (docs/PROTOCOL.md, "attempt")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

GENERATE_PATH = "/internal/v1/generate"
PROGRESS_PATH = "/internal/v1/progress"
META_PREFIX = b":{"  # an SSE comment that carries one Meta object as JSON
HEARTBEAT = b": hb\n\n"

Route = Literal["chat", "completions", "inference"]


@dataclass(frozen=True, slots=True)
class ResumeChoice:
    """What the client already has of one choice: output ids so far, and how it ended if it did."""

    index: int
    ids: list[int]
    finished: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Everything a new attempt needs to go on where the last one stopped."""

    choices: list[ResumeChoice]
    cached_tokens: int | None = None  # of the first attempt: usage is reported once
    prompt_sent: bool = False  # echo text, prompt_logprobs and prompt_token_ids were already delivered
    role_sent: bool = False  # the chunk that opens each choice of a chat was already delivered


@dataclass(frozen=True, slots=True)
class Attempt:
    """Body of POST /internal/v1/generate: the client's body verbatim plus what the gateway decides."""

    route: Route
    id: str
    created: int  # Unix seconds; constant over attempts
    seed: int  # used when the client gave none
    attempt: int  # 1, 2, …; frames of an older attempt are dropped by the gateway
    body: dict[str, Any]
    deadline_ms: int | None = None  # remaining time when this attempt starts
    resume: Resume | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The replica's core died or stopped stepping; the replica replays unless the gateway moves the request."""

    epoch: int
    cause: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the whole request, over all attempts and choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def for_clients(self) -> dict[str, Any]:
        """In OpenAI's words."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without an answer; `retryable` means another replica may still serve it."""

    status: int
    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Meta:
    """One `:{…}` line. Either tokens of a choice (c, t, f), or exactly one of lost, end, error."""

    c: int = -1  # choice index
    t: list[int] = field(default_factory=lambda: list[int]())  # new token ids of that choice
    f: str | None = None  # finish_reason when the choice ended with these tokens
    cached: int | None = None  # prompt tokens found in the prefix cache (first token of choice 0)
    lost: Lost | None = None
    end: Usage | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the progress stream, every 100 ms: what health is judged by."""

    state: Literal["starting", "ready", "restarting", "draining", "failed"]
    epoch: int  # of the core; a new core has a higher one
    step: int  # steps committed by this core
    beat: int  # heartbeats received from this core
    running: int
    waiting: int
    kv_free_tokens: int
    kv_total_tokens: int
    restarts: int
    numerics_id: str
    exact: bool
    silent_ms: int = 0  # how long the core has been silent, as its API process sees it
    step_limit_s: float = 0.0  # most a step of this size may take, as the API process has learned; 0: not told
