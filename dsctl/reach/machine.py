"""This machine's files, processes and ports."""

from __future__ import annotations

import errno
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from dsctl.base.errors import DsctlError, PreflightError
from dsctl.base.missing import Missing
from dsctl.reach.door import RawProcess

SMALL_FILE = 1 << 20  # bytes; below this a checkpoint's file is told by its content, above by its modification time
HINTS = {
    errno.ENOSPC: "make room on that disk and run this again; it goes on from here",
    errno.EDQUOT: "make room within your quota and run this again; it goes on from here",
    errno.EMFILE: "raise `ulimit -n` and run this again",
}
CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")


def read(path: Path) -> str | Missing:
    """The text of a file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        return Missing(f"{path}: {error.strerror}")
    except UnicodeDecodeError as error:
        return Missing(f"{path}: {error}")


def write(path: Path, text: str) -> None:
    """The text under that name, whole or not at all, for its owner only; untouched when it is there already."""
    if read(path) == text:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        error.filename = str(path)  # a write that fails does not say which
        raise


def make_token(path: Path) -> None:
    """A random token for its owner only, unless there is one."""
    if not path.exists():
        write(path, secrets.token_urlsafe(32) + "\n")


def refusal(error: OSError) -> DsctlError:
    """What the system refused, where, and what helps."""
    hint = HINTS.get(error.errno or 0, "set DSCTL_HOME to a directory you may write to")
    return DsctlError(f"{error.filename or 'this machine'}: {error.strerror or error}", hint=hint)


def names(directory: Path) -> list[str]:
    """The names in a directory, sorted."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []


def listing(directory: Path) -> str | Missing:
    """The files of a checkpoint: name, size, and content hash (small) or modification time (large)."""
    if not directory.is_dir():
        return Missing(f"{directory} is not a directory")
    rows: list[list[str | int]] = []
    for path in sorted(directory.iterdir()):
        if path.suffix not in CHECKPOINT_SUFFIXES or not path.is_file():
            continue
        found = path.stat()
        is_small = found.st_size <= SMALL_FILE
        mark = sha256(path.read_bytes()).hexdigest() if is_small else found.st_mtime_ns
        rows.append([path.name, found.st_size, mark])
    return json.dumps(rows)


def processes() -> list[RawProcess]:
    """Every process whose environment this user may read."""
    found: list[RawProcess] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            environ = (entry / "environ").read_bytes()
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            found.append(RawProcess(int(entry.name), stat, environ))
    return found


def start_time(pid: int) -> str:
    """The kernel's start time of a living process; empty when there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def end(pid: int, started: str, grace_s: float) -> None:
    """SIGTERM, and SIGKILL for it and its group after `grace_s`; only while the pid is still that process."""
    deadline = time.monotonic() + grace_s
    with suppress(ProcessLookupError):
        if start_time(pid) == started:
            os.kill(pid, signal.SIGTERM)
        while start_time(pid) == started:
            if time.monotonic() > deadline:
                group = os.getpgid(pid)
                (os.killpg if group == pid else os.kill)(pid, signal.SIGKILL)
                deadline += grace_s
            time.sleep(0.05)


def daemon(argv: Sequence[str], directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a program that puts itself into the background; returns when the foreground part has ended."""
    return subprocess.run(
        list(argv), cwd=directory, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, timeout=60, start_new_session=True, umask=0o077,
    )  # fmt: skip


def free_port(host: str, candidates: Sequence[int]) -> int:
    """The first candidate that can be bound; PreflightError with the system's reason when none can."""
    reason = "no port to try"
    for port in candidates:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                hint = "gateway.host must be an address of this machine"
                raise PreflightError(f"cannot listen on {host}: {error.strerror}", hint=hint) from error
            return port
    tried = f"{host}:{candidates[0]}" if len(candidates) == 1 else f"{host} with any of {len(candidates)} ports tried"
    raise PreflightError(f"cannot listen on {tried}: {reason}", hint="gateway.port: 0 takes any free port")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def open_files() -> int:
    """The hard limit of file descriptors, at most 65536."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)


def tail(path: Path, lines: int) -> str:
    """The last lines of a log, from at most its last 64 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - (64 << 10)))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"({path}: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:]) or f"({path} is empty)"
