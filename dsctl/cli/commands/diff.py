"""`dsctl diff`: how what runs differs from what dsctl.yaml says."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Json, Mock


def diff(config: Config = None, mock: Mock = False, json: Json = False) -> None:
    """Show what differs from dsctl.yaml.

    Exit 3 when something does.
    """
    from dsctl.cli import show
    from dsctl.flows import deploy, difference
    from dsctl.flows.project import open_project

    project = open_project(config, {"engine.kind": "oracle"} if mock else None)
    raise typer.Exit(show.diff(difference.show(project, deploy.plan_deploy(project)), json=json))
