"""`dsctl lock status|hold|break`: who is changing a fleet, and keeping everybody from it."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Hosts, Json, Yes

group = typer.Typer(
    name="lock", rich_markup_mode=None, no_args_is_help=True, help="Show, hold and free a fleet's lock."
)


@group.command()
def status(hosts: Hosts = "", config: Config = None, json: Json = False) -> None:
    """Show who holds the lock of each host, and what is on hold."""
    from dsctl.cli import fleetcalls, fleetshow
    from dsctl.flows import fleetstatus

    fleetshow.table(fleetstatus.locks(fleetcalls.opened(config, hosts)), "locks", json=json)


@group.command()
def hold(
    message: Annotated[str, typer.Option("--message", "-m", help="Why; whoever is stopped by it reads this.")],
    hosts: Hosts = "", config: Config = None,
) -> None:  # fmt: skip
    """Stop every change until `lock break`; it stays when this command has ended."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetverbs

    fleetverbs.hold(fleetcalls.opened(config, hosts), message, show.Terminal())


@group.command(name="break")
def break_(hosts: Hosts = "", config: Config = None, yes: Yes = False) -> None:
    """Take a hold away. A running command's own lock needs no breaking: it frees itself within 30 s of its end."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetverbs

    voice = show.Terminal(agreed=yes)
    voice.confirm("this lets others change what somebody put on hold", "--yes")
    fleetverbs.hold(fleetcalls.opened(config, hosts), None, voice)
