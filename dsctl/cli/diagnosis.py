"""Runs a diagnosis for the terminal: a progress bar for large logs, the report, and the exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsctl.base.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsctl.doctor.model import Severity
    from dsctl.doctor.report import Diagnosis
    from dsctl.flows.diagnose import Gathered, Wish

LARGE = 64 << 20  # bytes from which a progress bar is worth its line


@dataclass(frozen=True, slots=True)
class Limits:
    """Which findings fail the command, which are shown, in which form, and the bundle to write."""

    fail_on: str = "critical"
    threshold: str = "warning"
    allow_incomplete: bool = False
    form: str = "text"
    out: str = ""


def run(wish: Wish, limits: Limits) -> int:
    """Diagnoses, shows, and says how to exit."""
    from dsctl.cli import show
    from dsctl.flows import diagnose

    fail_on = diagnose.severity(limits.fail_on, "--fail-on")
    threshold = diagnose.severity(limits.threshold, "--threshold")
    form = _form(limits.form)
    seen = _with_progress(wish)
    found = diagnose.judged(seen, wish)
    show.diagnosed(form(found, threshold))
    if limits.out:
        diagnose.save(seen, found, limits.out)
    if diagnose.exit_is_failure(found, fail_on):
        return Exit.FAILED
    return Exit.PARTIAL if found.unanswered and not limits.allow_incomplete else Exit.OK


def _form(name: str) -> Callable[[Diagnosis, Severity], str | dict[str, Any]]:
    """The writer of a report by its name; UsageError with the names otherwise."""
    from dsctl.base.errors import UsageError
    from dsctl.doctor.markdown import as_markdown
    from dsctl.doctor.report import as_json, as_text

    forms = {"text": as_text, "markdown": as_markdown, "json": as_json}
    if name not in forms:
        raise UsageError(f"--format {name}: choose {', '.join(forms)}", hint="--format markdown")
    return forms[name]


def _with_progress(wish: Wish) -> Gathered:
    from dsctl.flows import diagnose

    size = diagnose.total_bytes(wish) if wish.logs and not wish.bundle else 0
    if size < LARGE or not sys.stderr.isatty():
        return diagnose.gathered(wish)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading logs", total=size)
        return diagnose.gathered(wish, lambda n: bar.advance(task, n))
