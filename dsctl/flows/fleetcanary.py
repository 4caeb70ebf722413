"""canary promote and abort: what becomes of a canary that stands, because it was told to wait or its run was cut."""

from __future__ import annotations

from dataclasses import replace

from dsctl.base.errors import PreflightError, UsageError
from dsctl.base.fleetstep import FleetStep, Record
from dsctl.base.missing import Missing
from dsctl.facts.host import HostFacts
from dsctl.flows.fleet import Fleet, check_hold, check_reached
from dsctl.flows.fleetplan import Planned, last_good, plan_release
from dsctl.planning.fleetseen import Release, Seen, show_release


def standing(seen: Seen) -> tuple[str, ...]:
    """Names of the copies that have a canary's share."""
    return () if isinstance(seen.table, Missing) else tuple(row.name for row in seen.table.rows if row.share)


def check_none(seen: Seen) -> None:
    """PreflightError while a canary stands: other changes would decide about it without saying so."""
    if names := standing(seen):
        raise PreflightError(f"{', '.join(names)} of {seen.project} is a canary", hint="dsctl canary promote, or abort")


def plan_promote(fleet: Fleet, seen: Seen) -> Planned:
    """The rest of the release the canary belongs to, without waiting for it any more."""
    pending = _pending(fleet, seen)
    return plan_release(fleet, seen, pending, pending.replicas)


def plan_abort(fleet: Fleet, seen: Seen) -> Planned:
    """The canary goes, its release is marked bad, and everything is as the last good release was."""
    pending = _pending(fleet, seen)
    good = last_good(seen)
    back = plan_release(fleet, seen, good, good.replicas)
    hosts = tuple(name for name, facts in seen.fleet.items() if isinstance(facts, HostFacts))
    bad = Record(hosts, pending.number, show_release(replace(pending, outcome="bad")))
    step = FleetStep(hosts[0], f"record release {pending.number} as bad", bad)
    return replace(back, steps=(step, *back.steps))


def _pending(fleet: Fleet, seen: Seen) -> Release:
    check_reached(fleet, seen)
    check_hold(seen)
    last = seen.last()
    if not standing(seen) or not isinstance(last, Release) or last.outcome != "pending":
        raise UsageError(f"no canary of {seen.project} stands", hint="dsctl deploy --canary 10%")
    return last
