"""Runs a diagnosis for the terminal: a progress bar for large logs, the report, and the exit code."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsctl.base.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsctl.cli.show import Terminal
    from dsctl.doctor.model import Severity
    from dsctl.doctor.report import Diagnosis
    from dsctl.flows.diagnose import Gathered, Wish

LARGE = 64 << 20  # bytes from which a progress bar is worth its line
HEARTBEAT_S = 30.0
FORMS = ("text", "markdown", "json")


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
    _require_form(limits.form)
    deeds = deeds or Deeds()
    voice = show.Terminal(agreed=deeds.yes)
    for option, is_wanted in (("--deep", deeds.deep), ("--fix", deeds.fix)):
        if is_wanted:
            diagnose.require_machines(wish, option)
    seen = _with_progress(wish, voice)
    if deeds.deep:
        _test(wish, seen, deeds, voice)
    found = diagnose.judged(seen, wish)
    _show(found, threshold, limits.form)
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
        seen.measured += told
        seen.unanswered += mute
    if wish.hosts:
        report = deephosts.run(seen.case, seen.fleet, wish.hosts, voice)
        seen.measured += report.told
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


def _require_form(name: str) -> None:
    """UsageError with the names for a form that does not exist."""
    from dsctl.base.errors import UsageError

    if name not in FORMS:
        raise UsageError(f"--format {name}: choose {', '.join(FORMS)}", hint="--format markdown")


def _show(found: Diagnosis, threshold: Severity, form: str) -> None:
    """The report on stdout, in colours on a terminal."""
    from dsctl.cli import drawing, show
    from dsctl.doctor import markdown, report

    if form == "json":
        show.diagnosed(report.as_json(found, threshold))
    elif form == "markdown":
        show.diagnosed(markdown.as_markdown(found, threshold))
    elif drawing.is_wanted():
        drawing.draw(report.as_text(found, threshold, drawing.width()))
    else:
        show.diagnosed(report.as_text(found, threshold))


def _with_progress(wish: Wish, voice: Terminal) -> Gathered:
    """Reads everything, with a bar on a terminal and a line every 30 s elsewhere, once there is much to read."""
    from dsctl.cli import drawing
    from dsctl.flows import diagnose

    if "-" in wish.logs and sys.stdin.isatty():
        voice.say("reading what is typed; Ctrl-D ends it")
        return diagnose.gathered(wish)
    size = diagnose.total_bytes(wish) if wish.logs else 0
    if size is not None and size < LARGE:
        return diagnose.gathered(wish)
    if sys.stderr.isatty():
        with drawing.reading(size) as told:
            return diagnose.gathered(wish, told)
    return diagnose.gathered(wish, _heartbeat(size, voice))


def _heartbeat(size: int | None, voice: Terminal) -> Callable[[int], None]:
    """Says now and then how much was read, and for how long it will go on."""
    began = spoke = time.monotonic()
    count = 0

    def told(more: int) -> None:
        nonlocal spoke, count
        count += more
        now = time.monotonic()
        if now - spoke >= HEARTBEAT_S:
            spoke = now
            left = f", about {(size - count) * (now - began) / count:.0f} s left" if size else ""
            voice.say(f"read {count / 1e6:.0f} MB{f' of {size / 1e6:.0f}' if size else ''}{left}")

    return told
