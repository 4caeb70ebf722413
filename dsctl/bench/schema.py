"""The whole of run.json as types: what a reader may rely on, and where its JSON Schema comes from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dsctl.bench.records import SelfCheck, Window

Figure = float | Literal["inf"] | None  # "inf": a failed request lies there; null: too few requests to be shown
Pair = tuple[Figure, Figure]


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric, in seconds. `ci95` holds the 95 % interval of each percentile that has one, and of the mean."""

    n: int
    mean: float | None
    std: float | None
    min: Figure
    p50: Figure
    p90: Figure
    p95: Figure
    p99: Figure
    p999: Figure
    max: Figure
    ci95: dict[str, Pair]


class Throughput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per second of the window; null where the server told no counts."""

    requests_per_s: float | None
    output_tokens_per_s: float | None
    input_tokens_per_s: float | None
    token_events_per_s: float | None
    tokens_unknown_events: int


class Goodput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that met every limit, of all that were attempted."""

    good: int
    attempted: int
    attainment: float | None
    wilson95: tuple[float, float]
    per_second: float | None
    per_second_ci95: tuple[float, float] | None
    limits: dict[str, float]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One objective and how it came out."""

    name: str
    on: str
    limit: float
    found: Figure
    outcome: Literal["pass", "fail", "unknown"]
    proven: bool
    words: str


class StageBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of the load."""

    index: int
    target: float
    start: float
    end: float
    counts: dict[str, int]
    metrics: dict[str, Summary]
    throughput: Throughput
    goodput: Goodput | None
    error_rate: float | None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """run.json."""

    schema_version: int
    definitions_version: int
    dsctl_version: str
    started_at: str
    is_partial: bool
    mode: Literal["open", "closed"]
    config: dict[str, Any]
    request_set_sha256: str
    schedule_sha256: str
    env: dict[str, Any]
    window: Window
    stages: list[StageBlock]
    self_check: SelfCheck
    valid: bool
    reasons: list[str]
    notes: list[str]
    server_metrics: list[dict[str, Any]]
    counts: dict[str, int]
    metrics: dict[str, Summary]
    throughput: Throughput
    goodput: Goodput | None
    error_rate: float | None
    definitions: dict[str, str]
    headline: str
    slo: list[Objective]
    objectives: dict[str, float] | None
    verdict: Literal["pass", "fail", "unknown", "measured", "invalid"]


def check(told: dict[str, Any]) -> Document:
    """A run.json as types; msgspec.ValidationError naming the field that is missing, unknown or of another kind."""
    return msgspec.convert(told, Document)


def json_schema() -> dict[str, Any]:
    """JSON Schema of run.json."""
    return msgspec.json.schema(Document)
