"""The exit codes of every verb: one table for the code, `dsctl --help`, docs/EXIT-CODES.md and the tests."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the shell sees when a verb ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PENDING = 3
    PARTIAL = 4
    LOCKED = 5
    PREFLIGHT = 6
    GATE = 7
    UNCONFIRMED = 8
    INVALID = 9
    INCOMPARABLE = 10
    TIMEOUT = 124
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: dict[Exit, str] = {
    Exit.OK: "ok",
    Exit.FAILED: "failed, findings, or an objective missed",
    Exit.USAGE: "usage or configuration",
    Exit.PENDING: "changes pending (plan, diff, --dry-run)",
    Exit.PARTIAL: "partial or incomplete",
    Exit.LOCKED: "another dsctl holds the lock",
    Exit.PREFLIGHT: "preflight refused: nothing was changed",
    Exit.GATE: "gate failed: rolled back, or left as the outcome says",
    Exit.UNCONFIRMED: "confirmation needed but there is no terminal",
    Exit.INVALID: "measurement invalid",
    Exit.INCOMPARABLE: "runs not comparable",
    Exit.TIMEOUT: "timed out",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.TERMINATED: "terminated (SIGTERM)",
}


def table() -> str:
    """The table as lines of `code  meaning`, for `--help`."""
    return "\n".join(f"{code.value:>4}  {meaning}" for code, meaning in MEANING.items())
