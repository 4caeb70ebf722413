"""The lock on a host: a shell there holds it as long as our heartbeats come, and cuts us off before it lets go."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import paramiko

from dsctl.base.errors import DsctlError, LockHeldError, PreflightError
from dsctl.reach.ssh.command import LostError
from dsctl.reach.ssh.host import Host

BEAT_S = 10.0
SILENCE_S = 30  # without a heartbeat for this long, the holder cuts the connection and lets go
STARTS_S = 30.0

# Finds the sshd process of this very connection; everything we do on the host hangs below it.
FIND_SESSION = """p=$PPID
while [ "$p" -gt 1 ]; do
    case "$(cat /proc/$p/comm 2>/dev/null)" in sshd*) break ;; esac
    p=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$p/stat)
done
exec "$@" "$p"
"""

# bash, as `read -t` is not in POSIX sh. Arguments: directory, seconds of silence, sshd's pid. First line: who we are.
HOLD = r"""set -u
dir=$1 silence=$2 session=$3
mkdir -p "$dir" && exec 9>>"$dir/lock" || exit 73
IFS= read -r -t "$silence" details || exit 74
flock -n 9 || { cat "$dir/lock.json" 2>/dev/null; exit 75; }
epoch=$(( $(cat "$dir/fence" 2>/dev/null || echo 0) + 1 ))
echo "$epoch" >"$dir/.fence.new" && mv -f "$dir/.fence.new" "$dir/fence" || exit 73
printf '%s\n' "$details" >"$dir/.lock.new" && mv -f "$dir/.lock.new" "$dir/lock.json" || exit 73
echo "held $epoch"
while IFS= read -r -t "$silence" line; do
    [ "$line" = release ] && { rm -f "$dir/lock.json"; exit 0; }
done
keep=" $$ "
p=$$
while [ "$p" -gt 1 ] && [ "$p" != "$session" ]; do
    p=$(sed 's/.*) . \([0-9]*\) .*/\1/' "/proc/$p/stat") || break
    keep="$keep$p "
done
below() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
        below "$child"
        case "$keep" in *" $child "*) ;; *) kill -KILL "$child" 2>/dev/null ;; esac
    done
}
if [ "$session" -gt 1 ]; then
    kill -STOP "$session" 2>/dev/null
    below "$session"
    kill -KILL "$session" 2>/dev/null
fi
rm -f "$dir/lock.json"
exit 0
"""


@dataclass(slots=True)
class Lease:
    """The lock on one host, held."""

    host: Host
    directory: str
    epoch: int
    _channel: paramiko.Channel
    _beat_s: float
    _ended: threading.Event = field(default_factory=threading.Event)
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def fence(self) -> str:
        """The file that names the epoch of the last holder."""
        return f"{self.directory}/fence"

    def check(self) -> None:
        """LostError when the lock may have passed to somebody else; nothing may be changed then."""
        if self._lost.is_set() or _is_over(self._channel):
            raise LostError(f"{self.host.name}: the lock was lost", why="the connection that held it broke",
                            hint="run the same command again; it looks at what was done and goes on")  # fmt: skip

    def beat(self) -> None:
        """Sends heartbeats until the lease ends."""
        while not self._ended.wait(self._beat_s):
            try:
                self._channel.sendall(b"\n")
            except (OSError, EOFError, paramiko.SSHException):
                self._lost.set()
            if self._lost.is_set() or _is_over(self._channel):
                self._lost.set()
                return

    def release(self) -> None:
        """Lets go."""
        self._ended.set()
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.sendall(b"release\n")
            self._channel.status_event.wait(10)
        self._channel.close()


def _is_over(channel: paramiko.Channel) -> bool:
    return bool(channel.closed or channel.eof_received or channel.exit_status_ready())


@contextmanager
def hold(
    hosts: Sequence[Host], directory: str, who: Mapping[str, Any], *, beat_s: float = BEAT_S, silence_s: int = SILENCE_S
) -> Generator[Mapping[str, Lease], None, None]:
    """Holds the lock of one project on all hosts, taken in the order of their names so that two never wait in a ring.

    LockHeldError names the holder; locks taken so far are let go.
    """
    with ExitStack() as stack:
        leases: dict[str, Lease] = {}
        for host in sorted(hosts, key=lambda each: each.name):
            lease = take(host, directory, who, beat_s=beat_s, silence_s=silence_s)
            stack.callback(lease.release)
            leases[host.name] = lease
        yield leases


def take(host: Host, directory: str, who: Mapping[str, Any], *, beat_s: float, silence_s: int) -> Lease:
    """The lock of one host."""
    argv, first = host.typed(["bash", "-c", HOLD, "dsctl-lock", directory, str(silence_s)])
    line = shlex.join(["sh", "-c", FIND_SESSION, "sh", *argv])
    channel = host.link.session(line, STARTS_S)
    try:
        channel.sendall(first + json.dumps(who, separators=(",", ":")).encode() + b"\n")
        told, code = _answer(channel)
    except (OSError, EOFError, paramiko.SSHException) as error:
        channel.close()
        raise LostError(f"{host.name}: the connection was lost while taking the lock", why=str(error)) from error
    if told.startswith("held "):
        lease = Lease(host, directory, int(told.split()[1]), channel, beat_s)
        threading.Thread(target=lease.beat, name=f"lock-{host.name}", daemon=True).start()
        return lease
    channel.close()
    if code == 75:
        raise LockHeldError(f"{host.name}: {directory} is locked by {describe(told)}",
                            hint="wait until it has ended, then run this again")  # fmt: skip
    raise PreflightError(f"{host.name}: the lock in {directory} cannot be taken", why=told or f"exit code {code}",
                         hint=f"dsctl hosts check --hosts {host.name}")  # fmt: skip


def describe(text: str) -> str:
    """Who holds a lock, from its details."""
    try:
        told = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(told["since"])))
        return f"`dsctl {told['verb']}` of {told['actor']}, since {since}"
    except (ValueError, KeyError, TypeError):
        return "a dsctl that has just begun"


def _answer(channel: paramiko.Channel) -> tuple[str, int]:
    """The holder's first line, or what it said and its exit code when it gave up."""
    out, end = b"", time.monotonic() + STARTS_S
    while time.monotonic() < end:
        channel.settimeout(0.2)
        try:
            data = channel.recv(4096)
        except TimeoutError:
            continue
        out += data
        if out.startswith(b"held ") and b"\n" in out:
            return out.decode().splitlines()[0], 0
        if not data:
            channel.status_event.wait(5)
            errors = channel.recv_stderr(4096).decode("utf-8", "replace") if channel.recv_stderr_ready() else ""
            return (out.decode("utf-8", "replace") or errors).strip(), channel.exit_status
    raise DsctlError("the lock's holder does not answer")
