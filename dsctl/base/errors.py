"""Every error dsctl raises on purpose, in one tree; it is caught in one place (cli/app.py).

DsctlError                     1    something failed; says what, where, why and what to try
├── UsageError                 2    the command line cannot be served
│   ├── ConfigError            2    dsctl.yaml (or another setting) is wrong: path, line, nearest name
│   └── ExtraMissingError      2    the verb needs an optional part that is not installed
├── PartialError               4    some of it worked
├── LockHeldError              5    another operator is at work: pid and verb
├── PreflightError             6    refused before anything changed
├── GateError                  7    a new replica did not pass its gate
├── ConfirmationError          8    a hazard needs --yes where there is no terminal
├── InvalidError               9    a measurement is not to be believed, or has too few samples for what was asked
├── IncomparableError         10    two runs measured different things
├── DeadlineError            124    the time given with --timeout, or a step's own, ran out
└── StoppedError         130/143    Ctrl-C or SIGTERM
"""

from __future__ import annotations

from dsctl.base.exits import Exit


class DsctlError(Exception):
    """Base of the tree.

    `message` says what and where, `why` the cause (log lines, the system's own words), `hint` the next command.
    """

    exit_code: Exit = Exit.FAILED

    def __init__(self, message: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.hint = hint

    def lines(self) -> list[str]:
        """The error as it is shown: one line for what, indented lines for why and what to try."""
        shown = [self.message]
        shown += [f"  {line}" for line in self.why.splitlines()]
        if self.hint:
            shown.append(f"  try: {self.hint}")
        return shown


class UsageError(DsctlError):
    """The command line asks for something that cannot be."""

    exit_code = Exit.USAGE


class ConfigError(UsageError):
    """A setting is wrong; the message carries its path and a value or name that would work."""


class ExtraMissingError(UsageError):
    """An optional part of dsctl is not installed; the hint installs it."""


class PartialError(DsctlError):
    """Part of the work was done; running the same command again does the rest."""

    exit_code = Exit.PARTIAL


class LockHeldError(DsctlError):
    """Another process is changing the same project; the message names its pid and verb."""

    exit_code = Exit.LOCKED


class PreflightError(DsctlError):
    """Refused before anything was touched."""

    exit_code = Exit.PREFLIGHT


class GateError(DsctlError):
    """A new replica crashed, stayed silent or answered wrongly; what serves now is in the message."""

    exit_code = Exit.GATE


class ConfirmationError(DsctlError):
    """A named hazard needs a yes, and there is nobody to ask."""

    exit_code = Exit.UNCONFIRMED


class InvalidError(DsctlError):
    """A measurement proves nothing: the client was the bottleneck, the server died, or samples are too few."""

    exit_code = Exit.INVALID


class IncomparableError(DsctlError):
    """Two runs differ in more than what is compared; the message names what."""

    exit_code = Exit.INCOMPARABLE


class DeadlineError(DsctlError):
    """Time ran out; what had been done stays done and a second run goes on from there."""

    exit_code = Exit.TIMEOUT


class StoppedError(DsctlError):
    """A signal asked dsctl to stop; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, exit_code: Exit = Exit.INTERRUPTED, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
