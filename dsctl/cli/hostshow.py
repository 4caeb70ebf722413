"""How hosts are shown: one line each with what it has, and below it what it lacks and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from dsctl.base.missing import Missing
from dsctl.base.units import size
from dsctl.cli import show
from dsctl.config.inventory import Entry
from dsctl.facts.host import Docker, HostFacts
from dsctl.flows.hosts import Checked, exit_code

SCHEMA_VERSION = 1


def listed(entries: Sequence[Entry], *, json: bool) -> None:
    """Hosts as the inventory describes them."""
    if json:
        hosts = [
            {"name": e.name, "address": e.address, "user": e.user, "port": e.port, "jump": e.jump} for e in entries
        ]
        show.json({"schema_version": SCHEMA_VERSION, "hosts": hosts})
        return
    rows = [("HOST", "ADDRESS", "USER", "THROUGH"), *((e.name, e.address, e.user, e.jump) for e in entries)]
    show.result(show.columns(rows))


def checked(hosts: tuple[Checked, ...], *, json: bool) -> None:
    """Hosts as they were found."""
    if json:
        told = [_json(host) for host in hosts]
        show.json({"schema_version": SCHEMA_VERSION, "exit_code": int(exit_code(hosts)), "hosts": told})
        return
    rows = [("HOST", "STATE", "SYSTEM", "CORES", "MEMORY", "CARDS", "DOCKER"), *(_row(host) for host in hosts)]
    lines = show.columns(rows).splitlines()
    for host in hosts:
        if host.error is not None:
            lines += ["", *host.error.lines()]
        for lack in host.lacks:
            lines += ["", f"{host.name}: {lack.what}: {lack.why}", f"  try: {lack.fix}"]
    show.result("\n".join(lines))


def _row(host: Checked) -> tuple[str, ...]:
    facts = host.facts
    if isinstance(facts, Missing):
        return host.name, "unreachable", "", "", "", "", ""
    state = "ready" if host.is_ready else "lacks " + ", ".join(lack.what for lack in host.lacks if lack.is_blocking)
    memory = "?" if isinstance(facts.memory, Missing) else size(facts.memory)
    return (
        host.name,
        state,
        f"{_text(facts.os)} {_text(facts.arch)}",
        _text(facts.cores),
        memory,
        _cards(facts),
        _docker(facts),
    )


def _text(value: object) -> str:
    return "?" if isinstance(value, Missing) else str(value)


def _cards(facts: HostFacts) -> str:
    if isinstance(facts.gpus, Missing):
        return "?"
    names = [card.name for card in facts.gpus]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "none"


def _docker(facts: HostFacts) -> str:
    return f"{facts.docker.version} ({facts.docker.way})" if isinstance(facts.docker, Docker) else "none"


def _json(host: Checked) -> dict[str, Any]:
    told: dict[str, Any] = {"name": host.name, "ready": host.is_ready, "lacks": []}
    told["lacks"] = [{"what": k.what, "why": k.why, "fix": k.fix, "blocking": k.is_blocking} for k in host.lacks]
    if host.error is not None:
        told["error"] = {"message": host.error.message, "why": host.error.why, "hint": host.error.hint}
    if isinstance(host.facts, HostFacts):
        told["facts"] = _plain(host.facts)
    return told


def _plain(value: Any) -> Any:
    """Facts as JSON: {"missing": reason} where there is no answer; files of projects by name only."""
    from dataclasses import fields, is_dataclass

    if isinstance(value, Missing):
        return {"missing": value.reason}
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in ("files", "journal", "loads")]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, frozenset):
        return sorted(cast("frozenset[int]", value))
    if isinstance(value, tuple):
        return [_plain(inner) for inner in cast("tuple[Any, ...]", value)]
    return value
