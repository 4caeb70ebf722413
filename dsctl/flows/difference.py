"""diff: how the programs' files and the running state differ from what a deploy would make of them."""

from __future__ import annotations

from difflib import unified_diff

from dsctl.base.missing import Missing
from dsctl.base.step import StartProgram, WriteFile
from dsctl.flows.deploy import Planned
from dsctl.flows.project import Project


def show(project: Project, planned: Planned) -> str:
    """A unified diff for every file a deploy would write, and a line for every other step; empty without drift."""
    parts: list[str] = []
    for step in planned.steps:
        if isinstance(step.action, WriteFile):
            path, text = step.action.path, step.action.text
        elif isinstance(step.action, StartProgram):
            path, text = project.places.program_conf(step.action.name), step.action.text
        else:
            continue
        found = project.door.read(path)
        before = [] if isinstance(found, Missing) else found.splitlines(keepends=True)
        parts += unified_diff(before, text.splitlines(keepends=True), f"{path} (is)", f"{path} (wished)", n=1)
    others = [step for step in planned.steps if not isinstance(step.action, WriteFile | StartProgram)]
    parts += [f"# {step.title}" + (f"  ({step.why})" if step.why else "") + "\n" for step in others]
    return "".join(parts)
