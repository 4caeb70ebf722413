"""keys: who may use the front. A key is shown once; only its hash is kept."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import cast

from dsctl.base.errors import DsctlError, UsageError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.base.step import MakeState, WriteFile
from dsctl.base.voice import Silence
from dsctl.flows.project import Project

Entry = dict[str, str]


def make(name: str) -> tuple[Entry, Secret]:
    """A new key: what is kept of it and, this one time, the key itself."""
    key = Secret(f"dsk-{secrets.token_urlsafe(32)}")
    entry: Entry = {
        "id": secrets.token_hex(4),
        "sha256": sha256(key.reveal().encode()).hexdigest(),
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return entry, key


def issue(project: Project, name: str) -> tuple[str, Secret]:
    """A new key that opens the front: its id and the key itself."""
    entry, key = make(name)
    _change(project, lambda entries: [*entries, entry])
    return entry["id"], key


def ls(project: Project) -> list[Entry]:
    """All keys, without their hashes."""
    return [{k: v for k, v in entry.items() if k != "sha256"} for entry in _entries(project)]


def are_wanted(project: Project) -> bool:
    """True once a key was ever issued: the front then serves nobody without one, even when none is left."""
    return not isinstance(project.door.read(project.places.keys), Missing)


def revoke(project: Project, key_id: str) -> None:
    """The key no longer opens anything; a running gateway notices by itself."""
    if key_id not in [entry["id"] for entry in _entries(project)]:
        raise UsageError(f"there is no key {key_id!r}", hint="dsctl keys ls")
    _change(project, lambda entries: [entry for entry in entries if entry["id"] != key_id])


def _entries(project: Project) -> list[Entry]:
    text = project.door.read(project.places.keys)
    return [] if isinstance(text, Missing) else parse(text, str(project.places.keys))


def parse(text: str, where: str) -> list[Entry]:
    """The entries of keys.json."""
    try:
        return cast("list[Entry]", json.loads(text)["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise DsctlError(f"{where} cannot be read", why=repr(error)) from error


def shown(entries: list[Entry]) -> str:
    """keys.json."""
    return json.dumps({"keys": entries}, indent=1) + "\n"


def _change(project: Project, change: Callable[[list[Entry]], list[Entry]]) -> None:
    from dsctl.reach.lock import held

    with held(project.places.lock, "keys"):
        project.door.act(MakeState(), Silence())
        text = shown(change(_entries(project)))
        project.door.act(WriteFile(project.places.keys, text), Silence())
