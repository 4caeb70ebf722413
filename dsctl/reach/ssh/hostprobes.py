"""Active measurements on hosts: how fast data goes from one to the other, how fast it reaches a disk."""

from __future__ import annotations

import re
import shlex
import time

import paramiko

from dsctl.base.missing import Missing
from dsctl.reach.ssh.host import Host

RUNS_S = 2.0  # of one transfer
STARTS_S = 20.0
# Python on both hosts, its standard library only. argv: address or interface, seconds. First line: where it listens.
GIVE = r"""
import fcntl, socket, struct, sys, time
name, seconds = sys.argv[1], float(sys.argv[2])
try:
    socket.inet_aton(name)
except OSError:
    ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    name = socket.inet_ntoa(fcntl.ioctl(ask.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))[20:24])
door = socket.socket()
door.settimeout(20)
door.bind((name, 0))
door.listen(1)
print(*door.getsockname(), flush=True)
link, _ = door.accept()
link.settimeout(10)
block, ends = bytes(1 << 20), time.monotonic() + seconds
try:
    while time.monotonic() < ends:
        link.sendall(block)
except OSError:
    pass
"""
# argv: address, port. One line: bytes, seconds.
TAKE = r"""
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
link.settimeout(10)
count, began, room = 0, time.monotonic(), bytearray(1 << 20)
while (got := link.recv_into(room)):
    count += got
print(count, time.monotonic() - began)
"""
WRITE = r"""
place=$1
t=$(mktemp "$place/dsctl-probe-XXXXXX") || exit 1
trap 'rm -f "$t"' EXIT
dd if=/dev/zero of="$t" bs=4194304 count=16 conv=fsync 2>&1
"""


def network(giver: Host, taker: Host, at: str) -> float | str | Missing:
    """Bytes a second from one host to the other, over the giver's address or interface `at`.

    The taker's words where it cannot reach the giver; Missing where it cannot be measured (no python3).
    """
    line = shlex.join(["python3", "-c", GIVE, at or giver.login.address, f"{RUNS_S:g}"])
    channel = giver.link.session(line, STARTS_S)
    try:
        told = _first_line(channel)
        if isinstance(told, Missing):
            return Missing(f"{giver.name}: {told.reason}")
        address, port = told.split()
        done = taker.run(["python3", "-c", TAKE, address, port], deadline_s=RUNS_S + 20)
    except (OSError, EOFError, paramiko.SSHException, ValueError) as problem:
        return Missing(f"{giver.name}: {problem}")
    finally:
        channel.close()
    if done.code == 127:
        return Missing(f"{taker.name}: python3 is not there")
    words = done.text.split()
    if done.code or len(words) != 2:
        return (done.err.strip().splitlines() or ["no answer"])[-1][:200]
    return int(words[0]) / max(1e-9, float(words[1]))


def _first_line(channel: paramiko.Channel) -> str | Missing:
    """Where the giver listens, or what it said instead."""
    held, ends = b"", time.monotonic() + STARTS_S
    while b"\n" not in held and time.monotonic() < ends:
        channel.settimeout(max(0.1, ends - time.monotonic()))
        data = channel.recv(4096)
        if not data:
            channel.status_event.wait(5)
            said = channel.recv_stderr(65536).decode("utf-8", "replace").strip().splitlines()
            return Missing("python3 is not there" if channel.exit_status == 127 else (said or ["it ended"])[-1][:200])
        held += data
    return held.decode("utf-8", "replace").splitlines()[0] if b"\n" in held else Missing("it did not start in time")


def disk(host: Host, directory: str) -> float | Missing:
    """Bytes a second that reach the disk of a directory of the host (64 MiB, fsync included; the file is removed)."""
    done = host.script(WRITE, directory, deadline_s=60, root=True)
    found = re.search(r"(\d+) bytes.*?, ([\d.]+(?:e-?\d+)?) s", done.text)
    if done.code or not found:
        said = (done.err.strip() or done.text.strip()).splitlines()[-1:] or ["no answer"]
        return Missing(f"{directory}: {said[0][:200]}")
    return int(found[1]) / max(1e-9, float(found[2]))
