"""`dsctl releases` and `dsctl rollback`: what was deployed on hosts before, and back to it."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Unreachable, Verbose, Yes


def releases(hosts: Hosts = "", config: Config = None, json: Json = False) -> None:
    """List the kept releases of a fleet, newest first."""
    from dsctl.cli import fleetcalls, fleetshow
    from dsctl.flows import fleetstatus

    fleetshow.table(fleetstatus.releases(fleetcalls.opened(config, hosts)), "releases", json=json)


def rollback(
    release: Annotated[int | None, typer.Argument(metavar="RELEASE", help="Default: the one before.")] = None,
    hosts: Hosts = "", config: Config = None, skip_unreachable: Unreachable = False, dry_run: DryRun = False,
    json: Json = False, yes: Yes = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Bring a kept release of a fleet back.

    It rolls like any change, and becomes a new release with the old one's settings.
    """
    from dsctl.cli import fleetcalls, show

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    fleet = fleetcalls.opened(config, hosts, skips=skip_unreachable)
    fleetcalls.rollback(fleet, release, voice, is_dry=dry_run, json=json)
