"""`dsctl plan`: the steps a deploy would take."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Json, Mock


def plan(config: Config = None, mock: Mock = False, json: Json = False) -> None:
    """Show what deploy would do.

    Exit 3 when that is something.
    """
    from dsctl.cli import show
    from dsctl.flows import deploy as flow
    from dsctl.flows.project import open_project

    project = open_project(config, {"engine.kind": "oracle"} if mock else None)
    raise typer.Exit(show.plan(flow.plan_deploy(project).steps, json=json))
