"""`dsctl deploy`: make this machine serve what dsctl.yaml says."""

from __future__ import annotations

import typer

from dsctl.base.errors import UsageError
from dsctl.cli.options import (
    Canary,
    CanaryHold,
    Config,
    DryRun,
    Events,
    Hosts,
    Json,
    Mock,
    Quiet,
    Timeout,
    Unreachable,
    Verbose,
    Yes,
)


def deploy(
    config: Config = None, mock: Mock = False, dry_run: DryRun = False, json: Json = False, yes: Yes = False,
    quiet: Quiet = False, verbose: Verbose = False, timeout: Timeout = 0, hosts: Hosts = "",
    skip_unreachable: Unreachable = False, canary: Canary = "", canary_hold: CanaryHold = False, events: Events = None,
) -> None:  # fmt: skip
    """Serve what dsctl.yaml says.

    Starts what is missing, replaces what changed one replica at a time, repairs what broke, and ends with a completion
    through the front. Without dsctl.yaml: two replicas of the bundled model. Run again, it goes on where it stopped.
    With --hosts, or placement.hosts in dsctl.yaml, the same on these hosts, over SSH.
    """
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import deploy as flow
    from dsctl.flows.project import open_project

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    if fleetcalls.is_fleet(config, hosts):
        share = fleetcalls.canary_overrides(canary, holds=canary_hold)
        fleet = fleetcalls.opened(config, hosts, mock=mock, skips=skip_unreachable, overrides=share)
        if dry_run:
            return fleetcalls.plan(fleet, json=json)
        return fleetcalls.deploy(fleet, voice, json=json, events=events)
    if canary or canary_hold or events:
        raise UsageError("--canary and --events are for hosts; on one machine a new copy takes its part after its gate",
                         hint="--hosts, or placement.hosts in dsctl.yaml")  # fmt: skip
    project = open_project(config, {"engine.kind": "oracle"} if mock else None, timeout_s=timeout)
    if dry_run:
        raise typer.Exit(show.plan(flow.plan_deploy(project).steps, json=json))
    show.deployed(flow.deploy(project, voice), json=json)
    return None
