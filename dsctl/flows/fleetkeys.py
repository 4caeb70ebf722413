"""keys of a fleet: the same keys.json on every front host, changed under the lock; only hashes are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dsctl.base.errors import UsageError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.flows import keys
from dsctl.flows.fleet import Fleet, check_reached, observe
from dsctl.flows.keys import Entry
from dsctl.planning.fleetseen import Seen

PATH = "gateway/keys.json"


def issue(fleet: Fleet, name: str) -> tuple[str, Secret]:
    """A new key that opens every front: its id and, this one time, the key itself."""
    entry, key = keys.make(name)
    _change(fleet, lambda entries: [*entries, entry])
    return entry["id"], key


def ls(fleet: Fleet) -> list[Entry]:
    """All keys, without their hashes."""
    fronts = replace(fleet, hosts=fleet.fronts)
    return [{k: v for k, v in entry.items() if k != "sha256"} for entry in _entries(fronts, observe(fronts))]


def revoke(fleet: Fleet, key_id: str) -> None:
    """The key no longer opens anything; running gateways notice by themselves."""

    def without(entries: list[Entry]) -> list[Entry]:
        if key_id not in [entry["id"] for entry in entries]:
            raise UsageError(f"there is no key {key_id!r}", hint="dsctl keys ls")
        return [entry for entry in entries if entry["id"] != key_id]

    _change(fleet, without)


def _entries(fleet: Fleet, seen: Seen) -> list[Entry]:
    """Every key that any front host knows, each once."""
    found: dict[str, Entry] = {}
    for host in fleet.fronts:
        text = seen.file(host, PATH)
        if not isinstance(text, Missing):
            found |= {entry["id"]: entry for entry in keys.parse(text, f"{host}: {PATH}")}
    return list(found.values())


def _change(fleet: Fleet, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """All front hosts must answer: a key that only some know, or that only some forgot, would be a trap."""
    fronts = replace(fleet, hosts=fleet.fronts, skips_unreachable=False)
    seen = observe(fronts)
    check_reached(fronts, seen)
    door = fronts.door(seen)
    with door.held("keys"):
        text = keys.shown(change(_entries(fronts, observe(fronts))))
        for name in fronts.fronts:
            door.hosts[name].write(PATH, text)
