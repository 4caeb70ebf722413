"""`dsctl status`: what runs, and whether that is all."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Hosts, Json


def status(config: Config = None, json: Json = False, hosts: Hosts = "") -> None:
    """Show what runs.

    Exit 0: all replicas are ready; 4: some; 1: none, or nothing is deployed.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import status as flow
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return fleetcalls.status(fleetcalls.opened(config, hosts), json=json)
    found = flow.status(open_project(config))
    show.status(found, json=json)
    raise typer.Exit(found.exit_code)
