"""The door to the kernel's settings of a host: read some, set one, under the host's lock and with a journal there."""

from __future__ import annotations

import getpass
import time
from collections.abc import Generator
from contextlib import contextmanager

from dsctl.base.errors import DsctlError, LockHeldError, PreflightError
from dsctl.base.missing import Missing
from dsctl.reach.knobs import is_allowed
from dsctl.reach.ssh import lease
from dsctl.reach.ssh.host import STALE, Host
from dsctl.reach.ssh.lease import Lease

# $1: the root of the file system; patterns follow. One line a setting: name, tab, value.
LIST = r"""
root=$1
shift
for pattern in "$@"; do
    for file in "$root"/$pattern; do
        [ -f "$file" ] || continue
        printf '%s\t%s\n' "${file#"$root"/}" "$(head -c 4096 "$file" | tr '\n' ' ')"
    done
done
"""
WRITE = 'printf "%s\\n" "$2" >"$1"'
APPEND = 'umask 077; mkdir -p "${1%/*}" && printf "%s\\n" "$2" >>"$1" && sync "$1"'


class HostKnobs:
    """One host's settings below `root`, its lock and journal in `directory`."""

    def __init__(self, host: Host, directory: str, root: str = "") -> None:
        self._host, self._directory, self._root = host, directory, root
        self._lease: Lease | None = None

    @property
    def journal(self) -> str:
        """Where the changes are written down."""
        return f"{self._host.name}:{self._directory}/journal.jsonl"

    def matching(self, pattern: str) -> list[str]:
        """The settings that a pattern names, in order."""
        return sorted(self._list(pattern))

    def read(self, name: str) -> str | Missing:
        """The value as the kernel writes it."""
        return self._list(name).get(name, Missing(f"{self._host.name}: /{name} cannot be read"))

    def _list(self, pattern: str) -> dict[str, str]:
        done = self._host.script(LIST, self._root, pattern, root=True, again=True)
        rows = [line.partition("\t") for line in done.text.splitlines()]
        return {name: value.strip() for name, _, value in rows if value}

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """The host's lock while the block runs; LockHeldError names who has it."""
        who = {"verb": "doctor --fix", "actor": _actor(), "since": time.time()}
        with lease.hold([self._host], self._directory, who) as leases:
            self._lease = leases[self._host.name]
            try:
                yield
            finally:
                self._lease = None

    def write(self, name: str, value: str) -> None:
        """Sets it. PreflightError where that is not allowed or the kernel refuses."""
        if not is_allowed(name):
            raise PreflightError(f"/{name} is not among the settings that may be changed")
        self._change(f"/{name}", WRITE, f"{self._root}/{name}", value)

    def note(self, line: str) -> None:
        """One more line of the journal, on disk before this returns."""
        self._change("the journal", APPEND, f"{self._directory}/journal.jsonl", line)

    def _change(self, what: str, script: str, *arguments: str) -> None:
        """Changes something, unless the lock has passed to somebody else."""
        if self._lease is None:
            raise DsctlError(f"{self._host.name}: {what} is changed under the host's lock only")
        self._lease.check()
        argv = self._host.fenced(self._lease.fence, self._lease.epoch, ["sh", "-c", script, "sh", *arguments])
        done = self._host.run(argv, root=True)
        if done.code == STALE:
            raise LockHeldError(
                f"{self._host.name}: somebody else took the lock", hint="dsctl doctor --fix looks again"
            )
        if done.code:
            words = (done.err.strip().splitlines() or [f"exit code {done.code}"])[-1]
            hint = "log in as root, or as a user with sudo" if "ermission" in words else ""
            raise PreflightError(f"{self._host.name}: {what} cannot be changed", why=words, hint=hint)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
