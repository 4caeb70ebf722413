"""`dsctl down`: end everything."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Timeout, Verbose, Yes


def down(
    purge: Annotated[bool, typer.Option("--purge", help="Also remove state, logs and keys.")] = False,
    config: Config = None, dry_run: DryRun = False, json: Json = False, yes: Yes = False,
    quiet: Quiet = False, verbose: Verbose = False, timeout: Timeout = 0, hosts: Hosts = "",
) -> None:  # fmt: skip
    """End everything.

    Asks first; without a terminal it needs --yes.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import down as flow
    from dsctl.flows.project import open_project

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    if fleetcalls.is_fleet(config, hosts):
        return fleetcalls.down(fleetcalls.opened(config, hosts), voice, purge=purge, is_dry=dry_run, json=json)
    project = open_project(config, timeout_s=timeout)
    if dry_run:
        raise typer.Exit(show.plan(flow.plan_down(project, purge=purge), json=json))
    show.ended(flow.down(project, voice, purge=purge), json=json)
    return None
