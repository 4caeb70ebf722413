"""Reads a dump of PyTorch's flight recorder (the JSON form): what a rank had called, and in which call it was stuck."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

MOST_BYTES = 256 << 20
_RANK = re.compile(r"(\d{1,5})(?:\.json)?$")


@dataclass(frozen=True, slots=True)
class Flight:
    """One group of one rank: the call that never ended (None: all did), and how far it had come."""

    file: str
    rank: int
    group: str
    seq: int | None
    op: str = ""
    size: str = ""
    enqueued: int | None = None
    completed: int | None = None
    ms: int | None = None
    place: str = ""  # function (file:line) of the call


def is_dump(head: bytes) -> bool:
    """True for the beginning of a JSON dump."""
    return head.lstrip()[:1] == b"{" and b'"entries"' in head and (b'"pg_status"' in head or b'"pg_config"' in head)


def is_pickle(name: str, head: bytes) -> bool:
    """True for the pickled form, which is never opened: opening a pickle can run what is written in it."""
    return head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and (b"entries" in head or "trace" in name)


def read(name: str, text: str) -> list[Flight]:
    """The groups of a dump. ValueError where it is not one."""
    try:
        value: object = json.loads(text)
    except RecursionError as problem:
        raise ValueError("nested too deeply") from problem
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - it is the file that is wrong
    dump = cast("dict[str, Any]", value)
    rank = dump.get("rank")
    if not isinstance(rank, int):
        found = _RANK.search(name)
        if found is None:
            raise ValueError("neither the dump nor the file's name tells the rank (name it …rank_N.json)")
        rank = int(found[1])
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in cast("list[Any]", dump.get("entries") or []):
        call = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {"is_p2p": True}
        if not call.get("is_p2p"):
            groups.setdefault(_group(call), []).append(call)
    status = cast("dict[str, Any]", dump.get("pg_status") or {})
    return [_flight(name, rank, group, entries, status.get(group)) for group, entries in sorted(groups.items())]


def _group(entry: dict[str, Any]) -> str:
    group: object = entry.get("process_group")
    if isinstance(group, list) and group:
        return str(cast("list[object]", group)[0])
    return str(entry.get("pg_id", "0"))


def _flight(name: str, rank: int, group: str, entries: list[dict[str, Any]], status: object) -> Flight:
    told = cast("dict[str, Any]", status) if isinstance(status, dict) else {}
    seqs = [seq for entry in entries if (seq := _int(entry.get("collective_seq_id"))) is not None]
    done = [_int(e.get("collective_seq_id")) or 0 for e in entries if e.get("state") == "completed"]
    enqueued = _int(told.get("last_enqueued_collective"))
    completed = _int(told.get("last_completed_collective"))
    enqueued = max(seqs, default=None) if enqueued is None else enqueued
    completed = max(done, default=-1) if completed is None else completed
    stuck = next((e for e in entries if e.get("state") in ("scheduled", "started")), None)
    if stuck is None:
        return Flight(name, rank, group, None, enqueued=enqueued, completed=completed)
    op = str(stuck.get("profiling_name", "")).rpartition(":")[2].upper()
    size, ms, place = _size(stuck.get("input_sizes")), _int(stuck.get("timeout_ms")), _place(stuck.get("frames"))
    return Flight(name, rank, group, _int(stuck.get("collective_seq_id")), op, size, enqueued, completed, ms, place)


def _int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(str(value)[:18])
    except ValueError:
        return None


def _size(shapes: object) -> str:
    """Elements of all inputs together."""
    if not isinstance(shapes, list):
        return ""
    total = 0
    for shape in cast("list[object]", shapes):
        count = 1
        for edge in cast("list[object]", shape) if isinstance(shape, list) else []:
            count *= edge if isinstance(edge, int) else 1
        total += count
    return str(total)


def _place(frames: object) -> str:
    """The first frame outside torch itself."""
    for frame in cast("list[object]", frames) if isinstance(frames, list) else []:
        if isinstance(frame, dict):
            told = cast("dict[str, Any]", frame)
            path = str(told.get("filename", ""))
            if path and "/torch/" not in path:
                return f"{told.get('name', '?')} ({path}:{told.get('line', '?')})"
    return ""
