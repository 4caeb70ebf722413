"""`dsctl logs`: what the programs wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Hosts

Name = Annotated[str | None, typer.Argument(help="gateway, r1, r2, …, supervisord; default: all but the last.")]


def logs(
    name: Name = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many last lines of each.")] = 50,
    config: Config = None, hosts: Hosts = "",
) -> None:  # fmt: skip
    """Show the last lines of the logs."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import logs as flow
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return fleetcalls.logs(fleetcalls.opened(config, hosts), name, lines, follow=follow)
    with show.stopping_quietly():
        for line in flow.logs(open_project(config), name, lines, follow=follow):
            show.log_line(line)
    return None
