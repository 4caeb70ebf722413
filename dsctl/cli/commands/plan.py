"""`dsctl plan`: the steps a deploy would take."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Hosts, Json, Mock, Unreachable


def plan(
    config: Config = None, mock: Mock = False, json: Json = False, hosts: Hosts = "",
    skip_unreachable: Unreachable = False,
) -> None:  # fmt: skip
    """Show what deploy would do.

    Exit 3 when that is something.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import deploy as flow
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return fleetcalls.plan(fleetcalls.opened(config, hosts, mock=mock, skips=skip_unreachable), json=json)
    project = open_project(config, {"engine.kind": "oracle"} if mock else None)
    raise typer.Exit(show.plan(flow.plan_deploy(project).steps, json=json))
