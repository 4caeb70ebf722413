"""What the verbs show of a fleet: plans by host, status, releases, locks; results to stdout as everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.units import seconds
from dsctl.cli import show

if TYPE_CHECKING:
    from dsctl.base.fleetstep import FleetStep
    from dsctl.flows.fleetplan import Planned
    from dsctl.flows.fleetstatus import FleetStatus


def plan(planned: Planned, *, json: bool) -> Exit:
    """The steps in order with their hosts, what should be known, and how long it may take."""
    if json:
        eta = None if isinstance(planned.eta_s, Missing) else round(planned.eta_s, 1)
        show.json({"steps": _told(planned.steps), "warnings": list(planned.warnings),
                   "hazards": list(planned.hazards), "eta_s": eta, "release": planned.release})  # fmt: skip
        return Exit.PENDING if planned.steps else Exit.OK
    code = steps(planned.steps, json=False)
    notes = [f"note: {text}" for text in planned.warnings] + [f"needs --yes: {text}" for text in planned.hazards]
    if planned.steps:
        eta = planned.eta_s.reason if isinstance(planned.eta_s, Missing) else f"about {seconds(planned.eta_s)}"
        notes.append(f"release {planned.release}, {planned.replicas} copies; how long: {eta}")
    show.result("\n".join(["", *notes]) if notes else "")
    return code


def steps(found: Sequence[FleetStep], *, json: bool) -> Exit:
    """Steps without anything around them."""
    if json:
        show.json({"steps": _told(found)})
    elif found:
        width = max(len(step.host) for step in found)
        lines = [f"{step.host.ljust(width)}  {step.title}" + (f"  ({step.why})" if step.why else "") for step in found]
        show.result("\n".join(f"{n:>4}. {line}" for n, line in enumerate(lines, 1)))
    else:
        show.result("nothing to do: everything is as it should be")
    return Exit.PENDING if found else Exit.OK


def done(planned: Planned, *, json: bool) -> None:
    """Where it serves now."""
    told = {"changed": bool(planned.steps), "url": planned.url, "model": planned.model,
            "replicas": planned.replicas, "release": planned.release}  # fmt: skip
    if json:
        show.json(told)
        return
    state = "" if planned.steps else "; nothing was to do"
    show.result(f"{planned.model} serves on {planned.url}  "
                f"(replicas: {planned.replicas}, release {planned.release}{state})")  # fmt: skip


def status(found: FleetStatus, *, json: bool) -> None:
    """Copies, front hosts, and what is wrong."""
    if json:
        show.json(found.as_json())
        return
    rows = [("replica", "host", "state", "url", "release", "cards", "restarts")]
    rows += [
        (each.name, each.host, each.state, each.url, str(each.release), str(len(each.gpus)) if each.gpus else "-",
         str(each.restarts))
        for each in found.copies
    ]  # fmt: skip
    fronts = [("front", "nginx", "gateway"), *((f["host"], f["nginx"], f["gateway"]) for f in found.fronts)]
    release = f"release {found.release}" if found.release else "not deployed"
    show.result(f"{found.project}  {release}\n\n{show.columns(rows)}\n\n{show.columns(fronts)}")
    for trouble in found.troubles:
        show.warn(trouble)


def table(rows: Sequence[dict[str, Any]], name: str, *, json: bool) -> None:
    """Rows of equal keys as a table."""
    if json:
        show.json({name: list(rows)})
    elif rows:
        heading = tuple(rows[0])
        show.result(show.columns([heading, *(tuple(_word(row[key]) for key in heading) for row in rows)]))
    else:
        show.result(f"no {name}")


def _word(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _told(found: Sequence[FleetStep]) -> list[dict[str, str]]:
    return [{"host": step.host, "title": step.title, "why": step.why} for step in found]
