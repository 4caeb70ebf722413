"""down: end everything of a project, and with --purge forget it."""

from __future__ import annotations

from collections.abc import Sequence

from dsctl.base.missing import Missing
from dsctl.base.places import Places
from dsctl.base.step import Forget, RemoveFile, Step, StopProgram, StopSupervisor, Terminate
from dsctl.base.voice import Voice
from dsctl.flows.apply import apply
from dsctl.flows.observe import observe
from dsctl.flows.project import Project
from dsctl.planning.observed import Observed


def plan_down(project: Project, *, purge: bool) -> list[Step]:
    """The steps that end the project; empty when there is nothing to end."""
    found = steps(observe(project), project.places)
    if purge and project.places.root.exists():
        found.append(Step("remove all state, logs and keys", Forget()))
    return found


def steps(seen: Observed, places: Places) -> list[Step]:
    """Gateway first, so that nothing new comes in; then supervisord with all replicas, and what lost it."""
    found: list[Step] = []
    if not isinstance(seen.supervised, Missing):
        if "gateway" in seen.supervised.programs:
            found.append(Step("stop the gateway", StopProgram("gateway")))
        found.append(Step("stop supervisord and all replicas", StopSupervisor()))
    for process in (*seen.supervisors, *seen.orphans):
        title = f"end {process.program} (pid {process.pid}), which runs without supervisord"
        found.append(Step(title, Terminate(process.program, process.pid, process.started)))
    found += [Step(f"forget {name}", RemoveFile(places.program_conf(name))) for name in sorted(seen.labels)]
    if found:
        found.append(Step("forget what was deployed", RemoveFile(places.release)))
    return found


def down(project: Project, voice: Voice, *, purge: bool) -> Sequence[Step]:
    """Ends it; asks first, since clients lose their server."""
    from dsctl.reach.lock import held

    if not plan_down(project, purge=purge):
        return []
    what = f"{project.places.project} in {project.places.home}"
    hazard = f"this ends {what} and removes its state, logs and keys" if purge else f"this ends {what}"
    voice.confirm(hazard, "--yes")
    with held(project.places.lock, "down"):
        found = plan_down(project, purge=purge)
        apply(found, project.door, voice)
    return found
