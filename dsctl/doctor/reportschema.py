"""The shape of `dsctl doctor --json` as types, and the JSON Schema made of them (`dsctl doctor schema`)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Quoted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quoted line; `line` 0: the state of a machine, not a line of a file."""

    file: str
    line: int
    text: str


class WayOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A computed setting; `predicted_margin_bytes` is null where it cannot be computed."""

    param: str
    current: str
    suggested: str
    predicted_margin_bytes: int | None
    note: str


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that fired; `children` are what it led to."""

    rule: str
    severity: Literal["critical", "warning", "info"]
    host: str
    title: str
    cause: str
    fix: str
    verify: str
    evidence: list[Quoted]
    children: list[Found]
    gpu: str
    ranks: list[int]
    count: int
    affects: str
    category: str
    solver: list[WayOut]
    reference: str


class Unjudged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that was not judged, and why."""

    rule: str
    why: str


class Passed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file (or lines) that was not read, and why."""

    what: str
    why: str


class Mute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A probe that should have answered and did not."""

    probe: str
    why: str


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many rules came out how."""

    fired: int
    clear: int
    not_applicable: int
    not_checked: int


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole answer."""

    schema_version: Literal[1]
    findings: list[Found]
    not_checked: list[Unjudged]
    not_applicable: list[Unjudged]
    looked_at: list[str]
    measured: list[str]
    passed_over: list[Passed]
    unanswered: list[Mute]
    summary: Summary


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Report)}
