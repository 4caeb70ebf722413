"""Child processes of a benchmark: output kept in files, memory by proportional share, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CORES = len(os.sched_getaffinity(0))


class FailedError(RuntimeError):
    """A program of a measurement ended badly; the message has the end of what it wrote."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what would decide another program's threads or modules."""
    dropped = ("OMP_", "KMP_", "MKL_", "PYTHONPATH", "LD_PRELOAD")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, **(extra or {})}


def output(command: Sequence[str], *, extra: Mapping[str, str] | None = None, timeout_s: float = 300.0) -> str:
    """What a program prints. Raises FailedError with its last words when it fails or takes too long."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(extra),
        start_new_session=True,
    ) as child:
        _keep_nice(child.pid)
        try:
            out, err = child.communicate(timeout=timeout_s)
        except BaseException as error:
            end(child)
            if isinstance(error, subprocess.TimeoutExpired):
                raise FailedError(f"{command[0]} did not end within {timeout_s:.0f} s") from error
            raise
    if child.returncode != 0:
        raise FailedError(f"{' '.join(command[:4])} … ended with {child.returncode}:\n{(out + err)[-2000:]}")
    return out


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, its output in `log`; all of the session ends with the block."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment(extra), start_new_session=True
        )
    _keep_nice(child.pid)
    try:
        yield child
    finally:
        end(child)


def _keep_nice(pid: int) -> None:
    """Weigh a child's session as this process is weighed: kernels that group tasks by session ignore niceness else."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(os.nice(0)))


def end(child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ask the child's session to end, then kill what is left of it."""
    for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 30.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and (
            child.poll() is None or (number == signal.SIGKILL and _has_group(child.pid))
        ):
            time.sleep(0.05)


def _has_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(after_name[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def pss(pid: int) -> int:
    """Bytes that the process and its descendants take, shared pages by share."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def end_children_on_sigterm() -> None:
    """Let SIGTERM unwind the blocks that end children, which are in sessions of their own."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


class Others:
    """How much of the processors went to processes that are not ours, since this was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._own = _busy_s(), sum(os.times()[:4])

    def share(self, running_s: float = 0.0) -> float:
        """0 … 1 of all cores; `running_s` are the seconds that children still running have used in the meantime."""
        elapsed = (time.monotonic() - self._began) * CORES
        own = sum(os.times()[:4]) - self._own + running_s
        return max(0.0, (_busy_s() - self._busy - own) / elapsed)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and its descendants."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(OSError, IndexError):
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _busy_s() -> float:
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def tail(log: Path, size: int = 2000) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-size:] if log.exists() else ""
