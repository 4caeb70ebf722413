"""down: end everything of a project, and with --purge forget it."""

from __future__ import annotations

from collections.abc import Sequence

from dsctl.base.missing import Missing
from dsctl.base.step import Forget, Step, StopProgram, StopSupervisor, Terminate
from dsctl.base.voice import Voice
from dsctl.flows.apply import apply
from dsctl.flows.observe import observe
from dsctl.flows.project import Project
from dsctl.planning.observed import Observed


def plan_down(project: Project, *, purge: bool) -> list[Step]:
    """The steps that end the project; empty when there is nothing to end."""
    return steps(observe(project), is_kept=not project.places.root.exists() or not purge)


def steps(seen: Observed, *, is_kept: bool) -> list[Step]:
    """Gateway first, so that nothing new comes in; then replicas, supervisord, and what lost it; at last the state."""
    found: list[Step] = []
    if not isinstance(seen.supervised, Missing):
        names = sorted(seen.supervised.programs, key=lambda name: (name != "gateway", name))
        found += [Step(f"stop {name}", StopProgram(name)) for name in names]
        found.append(Step("stop supervisord", StopSupervisor()))
    ended = set(seen.supervised.programs) if not isinstance(seen.supervised, Missing) else set[str]()
    for process in (*seen.supervisors, *seen.orphans):
        title = f"end {process.program} (pid {process.pid}), which runs without supervisord"
        found.append(Step(title, Terminate(process.program, process.pid, process.started)))
    found += [Step(f"forget {name}", StopProgram(name)) for name in sorted(seen.labels) if name not in ended]
    if not is_kept:
        found.append(Step("remove all state, logs and keys", Forget()))
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
