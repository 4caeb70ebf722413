"""Runs a diagnosis for the terminal: a progress bar for large logs, the report, and the exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsctl.base.exits import Exit

if TYPE_CHECKING:
    from dsctl.doctor.report import Diagnosis
    from dsctl.flows.diagnose import Wish

LARGE = 64 << 20  # bytes from which a progress bar is worth its line


@dataclass(frozen=True, slots=True)
class Limits:
    """Which findings fail the command and which are shown."""

    fail_on: str = "critical"
    threshold: str = "warning"
    allow_incomplete: bool = False


def run(wish: Wish, limits: Limits, *, json: bool) -> int:
    """Diagnoses, shows, and says how to exit."""
    from dsctl.cli import show
    from dsctl.doctor import report
    from dsctl.flows import diagnose

    fail_on = diagnose.severity(limits.fail_on, "--fail-on")
    threshold = diagnose.severity(limits.threshold, "--threshold")
    found = _with_progress(wish)
    show.diagnosed(report.as_json(found, threshold) if json else report.as_text(found, threshold))
    if diagnose.exit_is_failure(found, fail_on):
        return Exit.FAILED
    return Exit.PARTIAL if found.unanswered and not limits.allow_incomplete else Exit.OK


def _with_progress(wish: Wish) -> Diagnosis:
    from dsctl.flows import diagnose

    size = diagnose.total_bytes(wish) if wish.logs else 0
    if size < LARGE or not sys.stderr.isatty():
        return diagnose.diagnose(wish)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading logs", total=size)
        return diagnose.diagnose(wish, lambda n: bar.advance(task, n))
