"""A host of the fleet as everything above sees it: commands, files, Docker, forwards; one connection carries all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from dsctl.base.errors import DsctlError, PreflightError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.reach.ssh.command import Result
from dsctl.reach.ssh.link import Link

if TYPE_CHECKING:
    import docker

    from dsctl.reach.ssh.dockerway import Docker, Way

Power = Literal["root", "sudo", "sudo with a password", "none"]

LOGIN = """id -un; id -u; id -g
set -- $SSH_CONNECTION
echo "$3"
if [ "$(id -u)" = 0 ]; then echo root; elif sudo -k -n true 2>/dev/null; then echo sudo; else echo none; fi
"""
WRITE = """set -e
[ -z "$5" ] || mkdir -p -- "${1%/*}"
umask 077
t="$1.dsctl-$$"
trap 'rm -f "$t"' EXIT
cat >"$t"
[ "$(wc -c <"$t")" -eq "$3" ] || { echo "only part of the file arrived" >&2; exit 74; }
chmod "$2" "$t"
[ -z "$4" ] || chown "$4" "$t"
mv -f "$t" "$1"
"""
FENCED = 'f="$1"; e="$2"; shift 2; [ "$(cat "$f" 2>/dev/null)" = "$e" ] || exit 76; exec "$@"'
STALE = 76  # exit code of a command whose lock is no longer ours


def writing(path: str, data: bytes, mode: int, owner: str, *, make_dirs: bool) -> list[str]:
    """The command that writes a file from its stdin: beside it, checked for its length, then renamed."""
    return ["sh", "-c", WRITE, "sh", path, f"{mode:04o}", str(len(data)), owner, "yes" if make_dirs else ""]


def unwritten(name: str, path: str, done: Result) -> DsctlError:
    """The error of a file that could not be written."""
    hint = "free some space on the host" if "No space" in done.err else f"dsctl hosts check --hosts {name}"
    return DsctlError(f"{name}: {path} cannot be written", why=done.err.strip(), hint=hint)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are on a host."""

    user: str
    uid: int
    gid: int
    address: str  # of the host, as ssh reached it
    power: Power


class Host:
    """One host. Its methods may be called from several threads."""

    def __init__(self, link: Link, password: Secret | None = None) -> None:
        """`password` is for sudo where it asks; it goes over stdin and nowhere else."""
        self.link = link
        self._password = password
        self._way: Way | None = None
        self._docker: Docker | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """As the inventory calls it."""
        return self.link.route.name

    @cached_property
    def login(self) -> Login:
        """Who we are on the host and how we become root there, asked once."""
        told = self.link.run(["sh", "-c", LOGIN], deadline_s=30, again=True).text.splitlines()
        try:
            user, uid, gid, address, power = (line.strip() for line in told[-5:])
            login = Login(user, int(uid), int(gid), address, "root" if power == "root" else "none")
        except ValueError as error:
            raise DsctlError(f"{self.name}: the login shell answers {told!r}", hint=f"ssh {self.name} id") from error
        if power == "sudo":
            return replace(login, power="sudo")
        if power == "root" or not self._password:
            return login
        done = self.link.run(["sudo", "-k", "-S", "-p", "", "--", "true"], stdin=self._typed(), again=True)
        if done.code:
            raise PreflightError(f"{self.name}: sudo does not take the password", why=done.err.strip(),
                                 hint="check the file that DSCTL_SUDO_PASSWORD_FILE names")  # fmt: skip
        return replace(login, power="sudo with a password")

    @property
    def power(self) -> Power:
        """How this login becomes root."""
        return self.login.power

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60.0, root: bool = False,
        again: bool = False,
    ) -> Result:  # fmt: skip
        """Runs a command; its exit code is for the caller to judge.

        `root`: with the most power this login has. `again`: it only looks, so it is repeated when a connection breaks.
        DeadlineError, LostError and UnreachableError tell the rest.
        """
        if root and self.power == "sudo":
            argv = ["sudo", "-n", "--", *argv]
        elif root and self.power == "sudo with a password":
            argv, stdin = ["sudo", "-k", "-S", "-p", "", "--", *argv], self._typed() + stdin
        return self.link.run(argv, stdin=stdin, deadline_s=deadline_s, again=again)

    def need(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60.0, root: bool = False) -> Result:
        """Like `run`; DsctlError with the end of its error output unless it ends with 0."""
        done = self.run(argv, stdin=stdin, deadline_s=deadline_s, root=root)
        if done.code:
            raise DsctlError(f"{self.name}: `{argv[0]}` ended with {done.code}", why=done.err.strip()[-2000:])
        return done

    def fenced(self, fence: str, epoch: int, argv: Sequence[str]) -> list[str]:
        """`argv` as a command that exits with STALE, doing nothing, once somebody else took the lock."""
        return ["sh", "-c", FENCED, "sh", fence, str(epoch), *argv]

    def script(
        self, text: str, *arguments: str, deadline_s: float = 60.0, root: bool = False, again: bool = False
    ) -> Result:
        """Runs a POSIX shell script that is piped in; nothing is installed on the host."""
        return self.run(["sh", "-s", "--", *arguments], stdin=text.encode(), deadline_s=deadline_s, root=root,
                        again=again)  # fmt: skip

    def read(self, path: str, *, limit: int = 4 << 20) -> bytes | Missing:
        """A file's bytes (at most `limit`); Missing with the host's own words when it cannot be read."""
        done = self.run(["head", "-c", str(limit), "--", path], root=True, again=True)
        return Missing(f"{self.name}: {done.err.strip()}") if done.code else done.out

    def write(self, path: str, data: bytes, *, mode: int = 0o644, owner: str = "", make_dirs: bool = False) -> None:
        """The file with exactly these bytes: written beside it, then renamed; `owner` is user:group or numbers.

        Secrets travel in `data` (stdin) and are never readable by others, not even for a moment.
        """
        done = self.run(writing(path, data, mode, owner, make_dirs=make_dirs), stdin=data, deadline_s=120, root=True)
        if done.code:
            raise unwritten(self.name, path, done)

    def docker_way(self) -> Way | Missing:
        """How this login reaches Docker; Missing with the reason when it cannot."""
        from dsctl.reach.ssh import dockerway

        with self._lock:
            if self._way is None:
                found = dockerway.find(self)
                if isinstance(found, Missing):
                    return found
                self._way = found
            return self._way

    def docker(self, deadline_s: float = 60.0) -> docker.APIClient:
        """Docker's API on the host, over this connection; PreflightError when the login cannot use it."""
        from dsctl.reach.ssh import dockerway

        way = self.docker_way()
        if isinstance(way, Missing):
            raise PreflightError(f"{self.name}: no Docker: {way.reason}", hint=f"dsctl hosts check --hosts {self.name}")
        with self._lock:
            if self._docker is None:
                self._docker = dockerway.Docker(self, way)
        return self._docker.client(deadline_s)

    def forward(self, target: tuple[str, int]) -> AbstractContextManager[int]:
        """A loopback port on the host that leads to `target` on this machine, while the block runs."""
        from dsctl.reach.ssh.forward import reverse

        return reverse(self.link, target)

    def typed(self, argv: Sequence[str]) -> tuple[list[str], bytes]:
        """`argv` as root, and what to write to its stdin first."""
        if self.power == "sudo":
            return ["sudo", "-n", "--", *argv], b""
        if self.power == "sudo with a password":
            return ["sudo", "-k", "-S", "-p", "", "--", *argv], self._typed()
        return list(argv), b""

    def close(self) -> None:
        """Ends the connection."""
        self.link.close()

    def _typed(self) -> bytes:
        return (self._password.reveal() + "\n").encode() if self._password else b""
