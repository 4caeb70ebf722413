"""How to get to a host: what ssh_config and the inventory say, with what this client cannot honour refused by name."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsctl.base.errors import ConfigError
from dsctl.config.inventory import NAME, Entry

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,127}")
ADDRESS = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:%-]{0,252}")
MOST_JUMPS = 8


@dataclass(frozen=True, slots=True)
class Route:
    """One way to log in, fully resolved."""

    name: str  # as the operator calls the host
    address: str
    port: int
    user: str
    known_as: str  # the name its key is filed under in known_hosts
    identities: tuple[Path, ...]  # private keys, in the order they are tried
    only_identities: bool  # no keys of the agent but these
    agent: str  # the agent's socket; empty: none
    known_hosts: tuple[Path, ...]
    jump: Route | None = None  # the host to go through

    def __str__(self) -> str:
        via = f" through {self.jump}" if self.jump else ""
        return f"{self.user}@{self.address}:{self.port}{via}"


@dataclass(frozen=True, slots=True)
class Resolver:
    """Finds routes. `known_hosts` is the project's own file, `config` replaces ~/.ssh/config."""

    environ: Mapping[str, str]
    known_hosts: Path | None = None
    user: str = ""  # for hosts that name no user
    config: Path | None = None
    binary: str | None = shutil.which("ssh")

    def route(self, entry: Entry, through: tuple[str, ...] = ()) -> Route:
        """The way to one host; ConfigError names an option that cannot be honoured."""
        _check(entry.name, NAME, "name of a host")
        told = self._ask(entry)
        refuse(told, entry.name)
        route = self._build(entry, told)
        jump = entry.jump or _last(told, "proxyjump")
        if jump and jump.lower() != "none":
            route = replace(route, jump=self._through(jump, entry.name, (*through, entry.name)))
        return route

    def _through(self, jump: str, name: str, through: tuple[str, ...]) -> Route:
        """The last of the comma-separated hosts, reached through those before it."""
        *before, last = [part.strip() for part in jump.split(",")]
        user, _, rest = last.removeprefix("ssh://").rpartition("@")
        host, _, port = rest.partition(":") if rest.count(":") == 1 else (rest.strip("[]"), "", "")
        if host in through or len(through) > MOST_JUMPS:
            raise ConfigError(f"{name}: the jump hosts {' → '.join([*through, host])} lead in a circle")
        if port and not port.isdigit():
            raise ConfigError(f"{name}: the jump host {last!r} has no number as its port")
        entry = Entry(host, port=int(port or 0), user=user, jump=",".join(before))
        return replace(self, user="").route(entry, through)

    def _ask(self, entry: Entry) -> dict[str, list[str]]:
        """ssh_config for one host: from ssh itself, else from paramiko's reading of the file."""
        if entry.user:
            _check(entry.user, USER, "user")
        if self.binary is None:
            return self._read(entry)
        argv = [self.binary, "-G"]
        argv += ["-F", str(self.config)] if self.config else []
        argv += ["-l", entry.user] if entry.user else []
        argv += ["-p", str(entry.port)] if entry.port else []
        done = subprocess.run([*argv, "--", entry.name], capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            raise ConfigError(f"{entry.name}: ssh cannot read its configuration", why=done.stderr.strip())
        return parse(done.stdout)

    def _read(self, entry: Entry) -> dict[str, list[str]]:
        import paramiko

        path = self.config or Path("~/.ssh/config").expanduser()
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for word in ("exec", "final", "canonical"):
            if re.search(rf"(?im)^\s*match\s.*\b{word}\b", text):
                raise ConfigError(f"{path}: `Match {word}` needs the ssh program", hint="install openssh-client")
        found = paramiko.SSHConfig.from_text(text).lookup(entry.name)
        return {key: list(value) if isinstance(value, list) else [str(value)] for key, value in found.items()}

    def _build(self, entry: Entry, told: Mapping[str, list[str]]) -> Route:
        address = entry.address or _last(told, "hostname") or entry.name
        user = entry.user or self.user or _last(told, "user") or self.environ.get("USER", "root")
        _check(address, ADDRESS, f"address of {entry.name}")
        _check(user, USER, f"user of {entry.name}")
        port = entry.port or int(_last(told, "port") or 22)
        listed = [Path(word).expanduser() for word in told.get("identityfile", [])]
        own = [Path(entry.identity).expanduser()] if entry.identity else []
        files = [] if self.known_hosts is None else [self.known_hosts]
        for key in ("userknownhostsfile", "globalknownhostsfile"):
            named = [word for value in told.get(key, []) for word in value.split()]
            files += [Path(word).expanduser() for word in named if word.lower() not in ("none", "/dev/null")]
        if "userknownhostsfile" not in told:
            files += [Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")]
        alias = _last(told, "hostkeyalias")
        return Route(
            entry.name, address, port, user,
            known_as=alias if alias and alias != "none" else (address if port == 22 else f"[{address}]:{port}"),
            identities=tuple(dict.fromkeys([*own, *listed])),
            only_identities=_last(told, "identitiesonly") == "yes" or bool(own),
            agent=self._agent(_last(told, "identityagent")), known_hosts=tuple(files),
        )  # fmt: skip

    def _agent(self, named: str) -> str:
        if named.lower() == "none":
            return ""
        if named in ("", "SSH_AUTH_SOCK"):
            return self.environ.get("SSH_AUTH_SOCK", "")
        if named.startswith("$"):
            return self.environ.get(named[1:].strip("{}"), "")
        return str(Path(named).expanduser())


def parse(text: str) -> dict[str, list[str]]:
    """What `ssh -G` prints: a key and its value per line; a key may come again."""
    told: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and value:
            told.setdefault(key.lower(), []).append(value.strip())
    return told


def refuse(told: Mapping[str, Sequence[str]], name: str) -> None:
    """ConfigError when ssh would get to the host in a way this client does not know."""
    refused = {
        "proxycommand": "use ProxyJump, or `jump:` in the inventory",
        "hostbasedauthentication": "log in with a key",
        "pkcs11provider": "add the card's key to the agent: ssh-add -s PROVIDER",
    }
    for option, hint in refused.items():
        value = _last(told, option)
        if value and value.lower() not in ("none", "no"):
            raise ConfigError(f"{name}: ssh_config sets {option} {value!r}, which dsctl does not do", hint=hint)
    methods = _last(told, "preferredauthentications")
    if methods and "publickey" not in methods:
        raise ConfigError(
            f"{name}: ssh_config allows only {methods} to log in, and dsctl only logs in with keys",
            hint="PreferredAuthentications publickey for this host",
        )


def _last(told: Mapping[str, Sequence[str]], key: str) -> str:
    return told[key][-1] if told.get(key) else ""


def _check(text: str, pattern: re.Pattern[str], what: str) -> None:
    """Nothing that another program could take for an option or a command gets beyond this line."""
    if not pattern.fullmatch(text):
        raise ConfigError(f"{text!r} cannot be the {what}", hint="letters, digits, '.', '_' and '-'")
