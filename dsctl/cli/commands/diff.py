"""`dsctl diff`: how what runs differs from what dsctl.yaml says."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Hosts, Json, Mock


def diff(config: Config = None, mock: Mock = False, json: Json = False, hosts: Hosts = "") -> None:
    """Show what differs from dsctl.yaml.

    On hosts: what a deploy would have to do about it. Exit 3 when something differs.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import deploy, difference
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return fleetcalls.plan(fleetcalls.opened(config, hosts, mock=mock), json=json)
    project = open_project(config, {"engine.kind": "oracle"} if mock else None)
    raise typer.Exit(show.diff(difference.show(project, deploy.plan_deploy(project)), json=json))
