"""A case as plain JSON and back, without secrets, so that it can be judged on another machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from dsctl.base.cards import Card, Cards
from dsctl.base.missing import Missing
from dsctl.base.ports import Port
from dsctl.doctor.model import Case, LogSource
from dsctl.doctor.redact import redact, redacted
from dsctl.facts.flight import Flight
from dsctl.facts.logscan import Hit
from dsctl.facts.logtext import Spoken

SCHEMA = 1
MOST_TAIL = 64 * 1024  # characters of a log's end that go along
WITH_BEFORE = 200  # hits of a file that keep the lines before them


def to_json(case: Case, host: str) -> dict[str, Any]:
    """Everything the rules look at, redacted. `host`: the machine that was looked at."""
    seen: dict[str, int] = {}
    hits: list[dict[str, Any]] = []
    for hit in case.hits:
        seen[hit.file] = seen.get(hit.file, 0) + 1
        hits.append(_hit(hit, keep=seen[hit.file] <= WITH_BEFORE))
    value = {
        "schema_version": SCHEMA,
        "host": host,
        "hits": hits,
        "sources": [_source(known) for known in case.sources.values()],
        "missing": case.missing,
        "settings": case.settings,
        "origin": case.origin,
        "shape": case.shape,
        "facts": {name: _pack(fact) for name, fact in sorted(_speakable(case).items())},
    }
    return cast("dict[str, Any]", redacted(value))


def from_json(value: dict[str, Any]) -> tuple[Case, str]:
    """(the case, its host). ValueError for what is no bundle of this or an older version."""
    if value.get("schema_version") != SCHEMA:
        raise ValueError(f"schema_version is {value.get('schema_version')!r}; this dsctl reads {SCHEMA}")
    try:
        case = Case(
            hits=[_read_hit(hit) for hit in value["hits"]],
            sources={known["name"]: _read_source(known) for known in value["sources"]},
            missing=dict(value["missing"]), settings=dict(value["settings"]), origin=str(value["origin"]),
            shape=dict(value["shape"]), facts={name: _unpack(fact) for name, fact in value["facts"].items()},
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"it is damaged: {type(problem).__name__} {problem}") from problem
    if "alive" in case.facts:
        pids = cast("frozenset[int]", case.facts["alive"])
        case.facts["alive"] = pids.__contains__
    return case, str(value.get("host", ""))


def _speakable(case: Case) -> dict[str, object]:
    """The facts, with the question whether a process lives answered for those that hold card memory."""
    facts = dict(case.facts)
    alive = cast("Callable[[int], bool] | None", facts.pop("alive", None))
    cards = facts.get("gpu")
    if alive is not None and isinstance(cards, Cards):
        held = [card.readings.get("processes") for card in cards.cards]
        pids = {pid for found in held if isinstance(found, list) for pid, _ in found}
        facts["alive"] = frozenset(pid for pid in pids if alive(pid))
    return facts


def _hit(hit: Hit, *, keep: bool) -> dict[str, Any]:
    said = {f.name: getattr(hit.said, f.name) for f in fields(Spoken)}
    before = redact("\n".join(hit.before)).split("\n") if keep and hit.before else []
    after = redact("\n".join(hit.after)).split("\n") if hit.after else []
    return {"file": hit.file, "number": hit.number, "said": said, "before": before, "after": after}


def _read_hit(value: dict[str, Any]) -> Hit:
    said = value["said"]
    spoken = Spoken(said["text"], said["shown"], said["host"], said["rank"], said["stamp"], said["local"])
    return Hit(value["file"], int(value["number"]), spoken, tuple(value["after"]), tuple(value["before"]))


def _source(known: LogSource) -> dict[str, Any]:
    return {
        "name": known.name, "kinds": sorted(known.kinds), "host": known.host, "rank": known.rank,
        "tail": redact(known.tail[-MOST_TAIL:]), "lines": known.lines,
    }  # fmt: skip


def _read_source(value: dict[str, Any]) -> LogSource:
    return LogSource(
        value["name"], frozenset(value["kinds"]), value["host"], value["rank"], value["tail"], int(value["lines"])
    )


def _pack(value: object) -> object:
    """A fact as JSON; kinds that JSON does not have are named."""
    if isinstance(value, Missing | Card | Cards | Flight | Port):
        return {"~": type(value).__name__.lower(), "v": [_pack(getattr(value, f.name)) for f in fields(value)]}
    if isinstance(value, frozenset | set):
        return {"~": "set", "v": sorted(cast("frozenset[Any]", value))}
    if isinstance(value, tuple):
        return {"~": "tuple", "v": [_pack(item) for item in cast("tuple[object, ...]", value)]}
    if isinstance(value, list):
        return [_pack(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        told = cast(
            "dict[str, object]", redacted(cast("dict[str, object]", value))
        )  # while a value is still beside its name
        return {"~": "map", "v": [[key, _pack(item)] for key, item in told.items()]}
    return value


_MAKERS: dict[str, Callable[[list[Any]], object]] = {
    "missing": lambda values: Missing(*values),
    "card": lambda values: Card(*values),
    "cards": lambda values: Cards(*values),
    "flight": lambda values: Flight(*values),
    "port": lambda values: Port(*values),
    "set": frozenset,
    "tuple": tuple,
    "map": dict,
}


def _unpack(value: object) -> object:
    if isinstance(value, list):
        return [_unpack(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    tagged = cast("dict[str, Any]", value)
    return _MAKERS[tagged["~"]]([_unpack(item) for item in cast("list[object]", tagged["v"])])
