"""Runs a diagnosis for the terminal: a progress bar for large logs, the report, and the exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsctl.base.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsctl.cli.show import Terminal
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


@dataclass(frozen=True, slots=True)
class Deeds:
    """What is done besides looking: self-tests, repairs, and whether a person has agreed to them."""

    deep: bool = False
    fix: bool = False
    yes: bool = False
    dry_run: bool = False
    disruptive: bool = False  # cards in use are tested too


def run(wish: Wish, limits: Limits, deeds: Deeds | None = None) -> int:
    """Diagnoses, shows, repairs where that was asked for, and says how to exit."""
    from dsctl.cli import show
    from dsctl.flows import diagnose

    fail_on = diagnose.severity(limits.fail_on, "--fail-on")
    threshold = diagnose.severity(limits.threshold, "--threshold")
    form = _form(limits.form)
    deeds = deeds or Deeds()
    voice = show.Terminal(agreed=deeds.yes)
    for option, is_wanted in (("--deep", deeds.deep), ("--fix", deeds.fix)):
        if is_wanted:
            diagnose.require_machines(wish, option)
    seen = _with_progress(wish)
    if deeds.deep:
        _test(wish, seen, deeds, voice)
    found = diagnose.judged(seen, wish)
    show.diagnosed(form(found, threshold))
    if limits.out:
        diagnose.save(seen, found, limits.out)
    if deeds.fix and (code := _repair(wish, seen, found, deeds, voice)):
        return code
    if diagnose.exit_is_failure(found, fail_on):
        return Exit.FAILED
    return Exit.PARTIAL if found.unanswered and not limits.allow_incomplete else Exit.OK


def _test(wish: Wish, seen: Gathered, deeds: Deeds, voice: Terminal) -> None:
    """The self-tests of this machine, of the hosts, or of both."""
    from dsctl.flows import deepcheck, deephosts, diagnose

    if diagnose.is_about_here(wish):
        told, mute = deepcheck.run(seen.case, voice, disruptive=deeds.disruptive)
        seen.looked += told
        seen.unanswered += mute
    if wish.hosts:
        report = deephosts.run(seen.case, seen.fleet, wish.hosts, voice)
        seen.looked += report.told
        seen.unanswered += report.mute
    else:
        seen.case.missing.pop("deep.network", None)
        seen.case.facts["deep.network"] = "one machine has nobody to talk to (--hosts)"


def _repair(wish: Wish, seen: Gathered, found: Diagnosis, deeds: Deeds, voice: Terminal) -> int:
    """The listed repairs of what was found here; 3 when they were only shown."""
    from dsctl.flows import remedy

    with remedy.machines(wish, seen) as machines:
        turns = remedy.plan(machines, seen, found)
        for turn in turns:
            voice.say(f"{turn.rule}: {turn.title}   undo: {turn.undo}")
        if not turns:
            voice.say("--fix: nothing of what was found can be repaired by a listed, reversible change")
            return 0
        if deeds.dry_run:
            return Exit.PENDING
        for journal in remedy.apply(turns, machines, voice):
            voice.say(f"journal: {journal}")
    return 0


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
