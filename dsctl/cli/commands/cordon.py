"""`dsctl drain|cordon|uncordon HOST` and `dsctl prune`: hosts in and out of service, and what nobody needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Verbose, Yes

Host = Annotated[str, typer.Argument(metavar="HOST", help="As the inventory calls it.")]
Why = Annotated[str, typer.Option("--message", "-m", help="Why; others read it.")]


def drain(
    host: Host, hosts: Hosts = "", config: Config = None, json: Json = False, yes: Yes = False, quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Move all copies off a host and give it no new ones."""
    from dsctl.cli import fleetcalls, fleetshow, show
    from dsctl.flows import fleetverbs

    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    fleetshow.done(fleetverbs.drain(fleetcalls.opened(config, hosts), host, voice), json=json)


def cordon(host: Host, message: Why = "cordoned", hosts: Hosts = "", config: Config = None) -> None:
    """Give a host no new copies; those it has stay."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetverbs

    fleetverbs.cordon(fleetcalls.opened(config, hosts), host, message, show.Terminal())


def uncordon(host: Host, hosts: Hosts = "", config: Config = None) -> None:
    """Let a host take copies again."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetverbs

    fleetverbs.cordon(fleetcalls.opened(config, hosts), host, None, show.Terminal())


def prune(
    hosts: Hosts = "", config: Config = None, dry_run: DryRun = False, json: Json = False, quiet: Quiet = False
) -> None:
    """Remove what nobody needs any more.

    That is ended containers, and images of ours that neither a container nor a kept release uses.
    """
    from dsctl.cli import fleetcalls, show

    fleetcalls.prune(fleetcalls.opened(config, hosts), show.Terminal(is_quiet=quiet), is_dry=dry_run, json=json)
