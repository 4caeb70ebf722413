"""`provision`: the playbooks on every host, by Ansible with our routes; a driver changes only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsctl.base.errors import UsageError
from dsctl.base.exits import Exit
from dsctl.base.places import data_root
from dsctl.base.voice import Voice
from dsctl.config.settings import Settings

if TYPE_CHECKING:
    from dsctl.reach.ansible import Tally

PARTS = ("users", "limits", "time", "logs", "network", "docker", "driver", "toolkit")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be done to the hosts."""

    only: tuple[str, ...] = ()  # parts; empty: all
    driver: str = ""  # a version; empty: the driver stays as it is
    variables: Mapping[str, Any] | None = None  # of the playbooks, from --set NAME=VALUE
    is_check: bool = False


def provision(settings: Settings, pattern: str, wanted: Wanted, voice: Voice) -> dict[str, Tally]:
    """What became of each host. A driver change asks first: the host loses its cards until it has restarted."""
    from dsctl.flows.foreground import need
    from dsctl.flows.hosts import chosen, ways

    need("provision", "provision")
    from dsctl.reach.ansible import play

    parts = _parts(wanted.only)
    if wanted.driver and not wanted.is_check:
        voice.confirm(f"driver {wanted.driver} replaces what is loaded, and hosts restart", "--yes")
    entries = chosen(settings, pattern)
    with ways(settings) as opened:
        routes = [opened.host(entry).link.route for entry in entries]
    variables: dict[str, Any] = {"state_dir": settings.text("inventory.state_dir"), **(wanted.variables or {})}
    if wanted.driver:
        variables |= {"driver_version": wanted.driver, "driver_change": True, "reboot_allowed": True}
    password = os.environ.get("DSCTL_SUDO_PASSWORD_FILE", "")
    voice.say(f"{'looking at' if wanted.is_check else 'provisioning'} {len(routes)} hosts: {', '.join(parts)}")
    playbooks = [data_root() / "playbooks" / f"{part}.yml" for part in parts]
    word = "would change" if wanted.is_check else "changed"
    return play(playbooks, routes, variables, is_check=wanted.is_check,
                password_file=str(Path(password).resolve()) if password else "",
                told=lambda host, task: voice.say(f"{host}: {word}: {task}"))  # fmt: skip


def exit_code(found: Mapping[str, Tally], *, is_check: bool) -> Exit:
    """1: something failed. 4: some hosts were not reached (6: none was). 3: a check would change something."""
    if any(each.failed for each in found.values()):
        return Exit.FAILED
    if lost := [each for each in found.values() if each.unreachable]:
        return Exit.PREFLIGHT if len(lost) == len(found) else Exit.PARTIAL
    return Exit.PENDING if is_check and any(each.changed for each in found.values()) else Exit.OK


def variables(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, each value read as YAML; UsageError for what is none."""
    import yaml

    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {each!r} is not NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {name}: {value!r} is no YAML", hint="quote it for the shell") from error
    return found


def _parts(only: Sequence[str]) -> tuple[str, ...]:
    unknown = [each for each in only if each not in PARTS]
    if unknown:
        raise UsageError(f"--only {unknown[0]!r}: no such part", hint=f"one of: {', '.join(PARTS)}")
    return tuple(part for part in PARTS if not only or part in only)
