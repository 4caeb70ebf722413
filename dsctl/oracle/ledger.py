"""The three-way checker: what clients saw, what the gateway wrote down and what engines did must tell one story.

Client records and gateway lines are matched by request id, gateway and engine lines by the id the gateway gave.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


class ClientRecord(msgspec.Struct, frozen=True):
    """What one client saw; `outcome`: done, refused, failed, aborted (it left itself) or broken (cut off)."""

    request_id: str
    outcome: str
    ids: list[list[int]] = []
    text: list[str] = []
    finished: list[str | None] = []
    usage: tuple[int, int] | None = None  # prompt, completion
    detail: str = ""


class Expected(msgspec.Struct, frozen=True):
    """What an undisturbed run gives for the same request; no ids: they are not known."""

    ids: list[list[int]]
    text: list[str]
    finished: list[str]
    prompt_tokens: int | None = None


class GatewayLine(msgspec.Struct, frozen=True):
    """What the checker reads of the gateway's ledger."""

    id: str
    request_id: str
    outcome: str
    ids: list[list[int]]
    finished: list[str | None]
    usage: dict[str, int] | None
    attempts: list[tuple[str, str]]


class EngineLine(msgspec.Struct, frozen=True, rename={"told": "from"}):
    """What the checker reads of an engine's ledger."""

    id: str
    attempt: int
    event: str
    pid: int
    replica: str = ""
    told: list[int] = []
    outcome: str = ""


def read_lines(path: Path, kind: type[Any]) -> list[Any]:
    """All lines of a ledger; a half line at the end (a killed writer) is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=kind) for line in lines[:-1] if line]


def check_answers(clients: Iterable[ClientRecord], expected: dict[str, Expected]) -> list[str]:
    """Failed or altered answers, as sentences. Clients that left themselves must have seen a true beginning."""
    findings: list[str] = []
    for record in clients:
        want = expected[record.request_id]
        name = record.request_id
        if record.outcome == "aborted":
            if not _is_beginning(record, want):
                findings.append(f"{name}: left early, but what it saw was altered")
        elif record.outcome != "done":
            findings.append(f"{name}: {record.outcome}: {record.detail}")
        elif record.text != want.text or record.finished != want.finished:
            findings.append(f"{name}: altered text or finish_reason: {_difference(record, want)}")
        elif record.ids and want.ids and record.ids != want.ids:
            findings.append(f"{name}: altered token ids")
        elif record.usage is not None and want.ids and record.usage[1] != sum(map(len, want.ids)):
            findings.append(f"{name}: usage says {record.usage[1]} tokens, there are {sum(map(len, want.ids))}")
        elif record.usage is not None and want.prompt_tokens not in (None, record.usage[0]):
            findings.append(f"{name}: usage says {record.usage[0]} prompt tokens, there are {want.prompt_tokens}")
    return findings


def _difference(record: ClientRecord, want: Expected) -> str:
    """Where two answers part, short enough to read."""
    if len(record.text) != len(want.text):
        return f"{len(record.text)} choices instead of {len(want.text)}"
    for choice, (seen, full) in enumerate(zip(record.text, want.text, strict=True)):
        if seen != full:
            same = next(
                (i for i, (a, b) in enumerate(zip(seen, full, strict=False)) if a != b), min(len(seen), len(full))
            )
            return f"choice {choice} from character {same}: {seen[same:][:30]!r} instead of {full[same:][:30]!r}"
    return f"finished {record.finished} instead of {want.finished}"


def _is_beginning(record: ClientRecord, want: Expected) -> bool:
    return all(full.startswith(seen) for seen, full in zip(record.text, want.text, strict=False))


def check_gateway(
    clients: Iterable[ClientRecord], lines: list[GatewayLine], expected: dict[str, Expected]
) -> list[str]:
    """Where client and gateway disagree."""
    findings: list[str] = []
    by_request: dict[str, list[GatewayLine]] = defaultdict(list)
    for line in lines:
        by_request[line.request_id].append(line)
    for record in clients:
        known = by_request.pop(record.request_id, [])
        if len(known) != 1:
            findings.append(f"{record.request_id}: {len(known)} terminal events in the gateway's ledger")
            continue
        line = known[0]
        if record.outcome == "done":
            if line.outcome != "done":
                findings.append(f"{record.request_id}: done for the client, {line.outcome} for the gateway")
            elif expected[record.request_id].ids not in ([], line.ids):
                findings.append(f"{record.request_id}: the gateway handed on other ids")
            elif record.usage is not None and line.usage is not None:
                told = (line.usage["prompt_tokens"], line.usage["completion_tokens"])
                if told != record.usage:
                    findings.append(f"{record.request_id}: usage {record.usage} for the client, {told} for the gateway")
        elif record.outcome == "aborted" and line.outcome not in ("aborted", "done"):
            findings.append(f"{record.request_id}: the client left, the gateway says {line.outcome}")
    findings += [f"{name}: in the gateway's ledger, but no client sent it" for name in by_request]
    return findings


def check_engines(lines: list[EngineLine], gateway: list[GatewayLine], living: set[int]) -> list[str]:
    """Orphans, second owners and attempts the gateway does not know. `living` are the pids that still run."""
    findings: list[str] = []
    starts = [line for line in lines if line.event == "start"]
    ends = {(line.id, line.attempt): line for line in lines if line.event == "end"}
    known = {line.id: line for line in gateway}
    for (name, attempt), count in Counter((line.id, line.attempt) for line in starts).items():
        if count > 1:
            findings.append(f"{name}: attempt {attempt} was started {count} times")
    for line in starts:
        owner = known.get(line.id)
        if owner is None:
            findings.append(f"{line.id}: an engine served it, the gateway has no line")
        elif line.attempt > len(owner.attempts):
            findings.append(f"{line.id}: attempt {line.attempt} is not the gateway's")
        elif sum(line.told) > sum(map(len, owner.ids)):
            findings.append(f"{line.id}: attempt {line.attempt} was told more ids than the client has")
        if (line.id, line.attempt) not in ends and line.pid in living:
            findings.append(f"{line.id}: attempt {line.attempt} never ended on {line.replica} (orphan)")
    return findings


class RealLine(msgspec.Struct, frozen=True):
    """One ended sequence in the real engine's ledger."""

    id: str
    choice: int
    attempt: int
    ids_sha256: str
    finished: str


def check_real_engines(lines: list[RealLine], gateway: list[GatewayLine]) -> list[str]:
    """Where the real engine's ledger and the gateway's disagree: a served choice must have ended once, with its ids."""
    findings: list[str] = []
    ended: dict[tuple[str, int], list[RealLine]] = defaultdict(list)
    for line in lines:
        if line.finished in ("stop", "length"):
            ended[(line.id, line.choice)].append(line)
    for owner in gateway:
        if owner.outcome != "done":
            continue
        for choice, ids in enumerate(owner.ids):
            digest = hashlib.sha256(",".join(map(str, ids)).encode("ascii")).hexdigest()
            known = ended[(owner.id, choice)]
            if not any(line.ids_sha256 == digest for line in known):
                findings.append(f"{owner.id}: no engine ended choice {choice} with the ids the client has")
    return findings


def check(
    clients: list[ClientRecord],
    expected: dict[str, Expected],
    gateway: Path,
    engine: Path,
    living: set[int],
    *,
    is_real: bool = False,
) -> list[str]:
    """Everything the three ledgers say against each other; an empty list is one story."""
    gateway_lines = read_lines(gateway, GatewayLine)
    findings = check_answers(clients, expected) + check_gateway(clients, gateway_lines, expected)
    if is_real:
        return findings + check_real_engines(read_lines(engine, RealLine), gateway_lines)
    return findings + check_engines(read_lines(engine, EngineLine), gateway_lines, living)
