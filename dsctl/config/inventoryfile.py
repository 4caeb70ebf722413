"""Inventory files → Inventory: our own (groups of ranges), and Ansible's INI and YAML, read without Ansible."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import ConfigError
from dsctl.config.inventory import Entry, Inventory, expand, expand_all

FILE_NAME = "hosts.yaml"
SIZE_LIMIT = 4 << 20
OURS = tuple(each.name for each in fields(Entry) if each.name != "name")
ANSIBLE = {
    "ansible_host": "address", "ansible_ssh_host": "address", "ansible_port": "port", "ansible_ssh_port": "port",
    "ansible_user": "user", "ansible_ssh_user": "user", "ansible_ssh_private_key_file": "identity",
    "ansible_private_key_file": "identity", "ansible_python_interpreter": "python", "dsctl_fabric": "fabric",
}  # fmt: skip
JUMP = re.compile(r"(?:ProxyJump=|-J\s*)([A-Za-z0-9@._:,-]+)")


@dataclass(slots=True)
class _Draft:
    """What a file has said so far."""

    source: str
    values: dict[str, dict[str, Any]] = field(default_factory=lambda: dict[str, dict[str, Any]]())  # of hosts
    members: dict[str, list[str]] = field(default_factory=lambda: dict[str, list[str]]())
    children: dict[str, list[str]] = field(default_factory=lambda: dict[str, list[str]]())
    group_values: dict[str, dict[str, Any]] = field(default_factory=lambda: dict[str, dict[str, Any]]())

    def add(self, group: str, names: list[str], values: Mapping[str, Any]) -> None:
        """Hosts of a group, with values of their own."""
        for name in names:
            self.values.setdefault(name, {}).update(values)
        members = self.members.setdefault(group, [])
        members += [name for name in names if name not in members]

    def finish(self, path: Path | None) -> Inventory:
        """The inventory: a host's own values win over its groups', a nearer group's over a farther one's."""
        groups = {name: tuple(self._all(name, ())) for name in sorted({*self.members, *self.children})}
        given: dict[str, dict[str, Any]] = {name: {} for name in self.values}
        for group in sorted(self.group_values, key=lambda name: -len(groups.get(name, ()))):
            for name in groups.get(group, ()):
                given.setdefault(name, {}).update(self.group_values[group])
        hosts = {name: _entry(name, {**given[name], **own}, self.source) for name, own in self.values.items()}
        return Inventory(hosts, {name: members for name, members in groups.items() if name != "ungrouped"}, path)

    def _all(self, group: str, above: tuple[str, ...]) -> list[str]:
        if group in above:
            raise ConfigError(f"{self.source}: group {group!r} contains itself: {' → '.join([*above, group])}")
        found = list(self.members.get(group, ()))
        for child in self.children.get(group, ()):
            if child not in self.members and child not in self.children:
                near = get_close_matches(child, [*self.members, *self.children], n=1)
                tail = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{self.source}: group {group!r} has a child {child!r} that is no group{tail}")
            found += self._all(child, (*above, group))
        return list(dict.fromkeys(found))


def load(path: Path | None, directory: Path) -> Inventory:
    """The inventory of that file; without one, of hosts.yaml in `directory`; without that, one that knows nobody."""
    source = path or directory / FILE_NAME
    if path is None and not source.is_file():
        return Inventory()
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}", hint="dsctl init --hosts") from error
    if len(raw) > SIZE_LIMIT:
        raise ConfigError(f"{source}: {len(raw)} bytes is more than an inventory can be (4 MiB)")
    return parse(raw.decode("utf-8", "replace"), source)


def parse(text: str, path: Path) -> Inventory:
    """The same from text: YAML when it is a mapping, else Ansible's INI."""
    source = str(path)
    first = next((line for line in text.splitlines() if line.strip() and line.strip()[0] not in "#;"), "")
    is_yaml = (
        path.suffix in (".yaml", ".yml", ".json") or first.startswith(("---", "{")) or first.rstrip().endswith(":")
    )
    draft = _Draft(source)
    if not is_yaml:
        _read_ini(text, draft)
        return draft.finish(path)
    told = _yaml(text, source)
    if "groups" in told or ("hosts" in told and "all" not in told):
        _read_ours(told, draft)
    else:
        for group, body in told.items():
            _read_ansible(str(group), body, draft, f"{source}: {group}")
    return draft.finish(path)


def _yaml(text: str, source: str) -> dict[str, Any]:
    import yaml

    try:
        told: object = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML", why=str(error)) from error
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise ConfigError(f"{source}: expected groups such as `groups: {{a100-nodes: gpu0[1-4]}}`")
    return cast("dict[str, Any]", told)


def _read_ours(told: dict[str, Any], draft: _Draft) -> None:
    """groups: NAME: pattern | [patterns] | {hosts, children, and values}; hosts: NAME: {values}."""
    for key in told:
        if key not in ("groups", "hosts") and not str(key).startswith("x-"):
            _unknown(f"{draft.source}: {key}", str(key), ("groups", "hosts"))
    for group, body in _mapping(told.get("groups"), f"{draft.source}: groups"):
        where = f"{draft.source}: groups.{group}"
        values = dict(cast("dict[str, Any]", body)) if isinstance(body, dict) else {"hosts": body}
        draft.add(group, expand_all(_words(values.pop("hosts", []), where), where), {})
        if children := _words(values.pop("children", []), where):
            draft.children[group] = children
        draft.group_values[group] = _checked(values, where, ("hosts", "children"))
    for name, body in _mapping(told.get("hosts"), f"{draft.source}: hosts"):
        where = f"{draft.source}: hosts.{name}"
        draft.add("ungrouped", expand(name, where), _checked(dict(_mapping(body, where)), where))


def _read_ansible(group: str, body: object, draft: _Draft, where: str) -> None:
    for key, value in _mapping(body, where):
        if key == "hosts":
            for name, values in _mapping(value, f"{where}.hosts"):
                given = dict(_mapping(values, f"{where}.hosts.{name}"))
                draft.add(group, expand(name, where), _translated(given))
        elif key == "children":
            for child, inner in _mapping(value, f"{where}.children"):
                draft.children.setdefault(group, []).append(child)
                draft.members.setdefault(child, [])
                _read_ansible(child, inner, draft, f"{where}.children.{child}")
        elif key == "vars":
            draft.group_values.setdefault(group, {}).update(_translated(dict(_mapping(value, f"{where}.vars"))))
        else:
            _unknown(f"{where}.{key}", key, ("hosts", "children", "vars"))


def _read_ini(text: str, draft: _Draft) -> None:
    group, kind = "ungrouped", "hosts"
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        where = f"{draft.source}:{number}"
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            group, _, kind = line[1:-1].strip().partition(":")
            kind = kind or "hosts"
            if kind not in ("hosts", "children", "vars"):
                _unknown(f"{where}: [{group}:{kind}]", kind, ("children", "vars"))
            draft.members.setdefault(group, [])
        elif kind == "children":
            draft.children.setdefault(group, []).append(line.split()[0])
        elif kind == "vars":
            key, _, value = line.partition("=")
            draft.group_values.setdefault(group, {}).update(_translated({key.strip(): value.strip()}))
        else:
            word, *rest = _split(line, where)
            pairs = [part.partition("=") for part in rest]
            draft.add(group, expand(word, where), _translated({key: value for key, _, value in pairs}))


def _split(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise ConfigError(f"{where}: {line!r} cannot be read", why=str(error)) from error


def _translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Ansible's variables by our names; those that say nothing about the way to a host are left out."""
    found = {ANSIBLE[key]: value for key, value in values.items() if key in ANSIBLE}
    extra = " ".join(str(values.get(key, "")) for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"))
    if jump := JUMP.search(extra):
        found["jump"] = jump[1]
    return found


def _entry(name: str, values: Mapping[str, Any], source: str) -> Entry:
    where = f"{source}: {name}"
    told = {key: value for key, value in values.items() if value not in (None, "")}
    try:
        port = int(told.pop("port", 0))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: port {values['port']!r} is not a number") from error
    if not 0 <= port <= 65535:
        raise ConfigError(f"{where}: port {port} is not a port")
    entry = replace(Entry(name, port=port), **{key: str(value) for key, value in told.items()})
    for key in ("address", "user", "jump", "fabric"):
        if str(getattr(entry, key)).startswith("-"):
            raise ConfigError(f"{where}: {key} {getattr(entry, key)!r} starts with a dash")
    return entry


def _checked(values: dict[str, Any], where: str, also: tuple[str, ...] = ()) -> dict[str, Any]:
    for key in values:
        if key not in OURS:
            _unknown(f"{where}.{key}", key, (*also, *OURS))
    return values


def _mapping(value: object, where: str) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected `name: …` lines, found {value!r}")
    for key, inner in cast("dict[object, Any]", value).items():
        yield str(key), inner


def _words(value: object, where: str) -> list[str]:
    if isinstance(value, str):
        return [word for word in re.split(r"[,\s]+", value) if word]
    if isinstance(value, list):
        return [str(word) for word in cast("list[object]", value)]
    raise ConfigError(f"{where}: expected a name, a range or a list, found {value!r}")


def _unknown(where: str, key: str, known: tuple[str, ...]) -> None:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    tail = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where}: unknown key{tail}", hint=f"one of: {', '.join(known)}")
