"""hosts check and trust: can each host be reached, what does it say, what does it lack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import ConfigError, DsctlError, PreflightError, UsageError
from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.config import inventoryfile
from dsctl.config.inventory import Entry, Inventory
from dsctl.config.settings import Settings
from dsctl.facts.host import HostFacts
from dsctl.planning.readiness import Lack, lacks
from dsctl.reach.ssh import gather, knownhosts, login
from dsctl.reach.ssh.host import Host
from dsctl.reach.ssh.route import Resolver
from dsctl.reach.ssh.ways import Ways, everywhere

WRITABLE = 'p=$1; while [ ! -e "$p" ]; do p=$(dirname "$p"); done; [ -w "$p" ]'


@dataclass(frozen=True, slots=True)
class Checked:
    """One host, looked at."""

    name: str
    facts: HostFacts | Missing
    error: DsctlError | None  # why it could not be looked at
    lacks: tuple[Lack, ...] = ()

    @property
    def is_ready(self) -> bool:
        """True when a deployment would not be refused for this host."""
        return self.error is None and not any(lack.is_blocking for lack in self.lacks)


def exit_code(checked: tuple[Checked, ...]) -> Exit:
    """0: all ready. 6: a key is not trusted, or no host answers. 4: some do not answer. 1: something is lacking."""
    lost = [each for each in checked if each.error is not None]
    if any(isinstance(each.error, PreflightError) for each in lost) or (lost and len(lost) == len(checked)):
        return Exit.PREFLIGHT
    if lost:
        return Exit.PARTIAL
    return Exit.OK if all(each.is_ready for each in checked) else Exit.FAILED


def directory(settings: Settings) -> Path:
    """Where dsctl.yaml lies; the inventory and the project's known_hosts lie beside it."""
    return settings.source.parent if settings.source else Path.cwd()


def ways(settings: Settings, environ: Mapping[str, str] | None = None) -> Ways:
    """The connections of one run: ssh_config (or DSCTL_SSH_CONFIG), the project's known_hosts, sudo's password."""
    given = os.environ if environ is None else environ
    config = given.get("DSCTL_SSH_CONFIG")
    resolver = Resolver(
        given, directory(settings) / "known_hosts", settings.text("inventory.user"), Path(config) if config else None
    )
    return Ways(resolver, _password(given))


def _password(environ: Mapping[str, str]) -> Secret | None:
    named = environ.get("DSCTL_SUDO_PASSWORD_FILE")
    if not named:
        return None
    try:
        return Secret(Path(named).read_text(encoding="utf-8").rstrip("\n"))
    except OSError as error:
        raise ConfigError(f"DSCTL_SUDO_PASSWORD_FILE: {named} cannot be read: {error.strerror}") from error


def inventory(settings: Settings) -> Inventory:
    """The hosts dsctl.yaml leads to."""
    named = settings.text("inventory.file")
    here = directory(settings)
    return inventoryfile.load(here / Path(named).expanduser() if named else None, here)


def chosen(settings: Settings, pattern: str) -> tuple[Entry, ...]:
    """The hosts of a pattern, or of placement.hosts; UsageError when neither names any."""
    wanted = pattern or settings.text("placement.hosts")
    if not wanted:
        raise UsageError("no hosts are named", hint="--hosts a100-nodes, or placement.hosts in dsctl.yaml")
    return inventory(settings).select(wanted, base=directory(settings))


def check(settings: Settings, pattern: str) -> tuple[Checked, ...]:
    """Looks at every host named, all at once."""
    entries = chosen(settings, pattern)
    with ways(settings) as opened:
        results = everywhere(entries, lambda entry: _check(settings, entry, opened))
    return tuple(
        Checked(entry.name, Missing(found.message), found) if isinstance(found, DsctlError) else _checked(found)
        for entry, found in zip(entries, results, strict=True)
    )


def _checked(found: object) -> Checked:
    if not isinstance(found, Checked):
        raise TypeError(f"not a Checked: {found!r}")
    return found


def _check(settings: Settings, entry: Entry, opened: Ways) -> Checked:
    state_dir = settings.text("inventory.state_dir")
    host: Host = opened.host(entry)
    _ = host.login  # raises what the look itself would only describe
    told = gather.facts(host, state_dir=state_dir, fabric=entry.fabric)
    if isinstance(told, Missing):
        raise DsctlError(told.reason, hint=f"ssh {entry.name}")
    can_write = host.run(["sh", "-c", WRITABLE, "sh", state_dir], root=True, again=True).code == 0
    wants_cards = settings.text("engine.device") == "cuda"
    return Checked(entry.name, told, None, tuple(lacks(told, state_dir, can_write=can_write, wants_cards=wants_cards)))


def trust(settings: Settings, name: str, fingerprint: str) -> Path | None:
    """Adds the host's key to the project's known_hosts when it has this fingerprint; None: it was known already.

    PreflightError, naming the key shown, when the fingerprint is another one or none is given.
    """
    entry = inventory(settings).select(name, "NAME")[0]
    with ways(settings) as opened:
        host = opened.host(entry)
        route = host.link.route
        before = opened.transport_before(route)
        transport = login.connect(route, before, login=False)
        try:
            key = login.shown_key(transport)
        finally:
            transport.close()
    if fingerprint.strip() != key.fingerprint:
        said = "is not the one given" if fingerprint else "must be compared with what the host itself says"
        raise PreflightError(
            f"{name}: the {key.kind} key of {route.known_as} is {key.fingerprint}, which {said}",
            why="on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            hint=f"only when they are equal: dsctl hosts trust {name} --fingerprint {key.fingerprint}",
        )
    found = knownhosts.judge(knownhosts.read(route.known_hosts), route.known_as, key.kind, key.blob)
    if found.verdict == "known":
        return None
    if found.verdict != "unknown":
        raise PreflightError(f"{name}: {found.place} says another key", hint=f"remove {found.place} first")
    path = directory(settings) / "known_hosts"
    knownhosts.add(path, route.known_as, key.kind, key.blob)
    return path
