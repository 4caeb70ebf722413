"""`dsctl scale N`: more or fewer replicas of what is deployed."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Timeout, Unreachable, Verbose, Yes


def scale(
    replicas: Annotated[int, typer.Argument(metavar="N", min=0, max=256, help="How many replicas there shall be.")],
    config: Config = None, dry_run: DryRun = False, json: Json = False, yes: Yes = False,
    quiet: Quiet = False, verbose: Verbose = False, timeout: Timeout = 0, hosts: Hosts = "",
    skip_unreachable: Unreachable = False,
) -> None:  # fmt: skip
    """Change the number of replicas.

    Adds what is missing; what is too much finishes its requests and ends. 0 needs --yes.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import deploy as flow
    from dsctl.flows.project import open_project

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    if fleetcalls.is_fleet(config, hosts):
        fleet = fleetcalls.opened(config, hosts, skips=skip_unreachable)
        return fleetcalls.scale(fleet, replicas, voice, is_dry=dry_run, json=json)
    done = flow.scale(open_project(config, timeout_s=timeout), replicas, voice, is_dry=dry_run)
    if dry_run:
        raise typer.Exit(show.plan(done.steps, json=json))
    show.deployed(done, json=json)
    return None
