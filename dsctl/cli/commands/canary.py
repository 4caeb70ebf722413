"""`dsctl canary promote|abort`: decide about a canary that stands."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Unreachable, Verbose, Yes

group = typer.Typer(
    name="canary", rich_markup_mode=None, no_args_is_help=True, help="Let a fleet's canary through, or take it back."
)


@group.command()
def promote(
    hosts: Hosts = "", config: Config = None, skip_unreachable: Unreachable = False, dry_run: DryRun = False,
    json: Json = False, yes: Yes = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Give the canary its full part and roll the rest of its release."""
    from dsctl.cli import fleetcalls, show

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    fleet = fleetcalls.opened(config, hosts, skips=skip_unreachable)
    fleetcalls.canary(fleet, voice, is_promoted=True, is_dry=dry_run, json=json)


@group.command()
def abort(
    hosts: Hosts = "", config: Config = None, skip_unreachable: Unreachable = False, dry_run: DryRun = False,
    json: Json = False, yes: Yes = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """End the canary, mark its release bad and go back to the last good one."""
    from dsctl.cli import fleetcalls, show

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    fleet = fleetcalls.opened(config, hosts, skips=skip_unreachable)
    fleetcalls.canary(fleet, voice, is_promoted=False, is_dry=dry_run, json=json)
