"""`dsctl keys issue|ls|revoke`: who may use the front."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Hosts, Json

group = typer.Typer(name="keys", rich_markup_mode=None, no_args_is_help=True, help="Issue, list and revoke API keys.")


@group.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for the list.")] = "",
    config: Config = None, json: Json = False, hosts: Hosts = "",
) -> None:  # fmt: skip
    """Make a key and print it, this once; only its hash is kept."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetkeys, keys
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return show.issued(*fleetkeys.issue(fleetcalls.opened(config, hosts), name), json=json)
    key_id, key = keys.issue(open_project(config), name)
    show.issued(key_id, key, json=json)
    return None


@group.command()
def ls(config: Config = None, json: Json = False, hosts: Hosts = "") -> None:
    """List the keys, by id."""
    from dsctl.cli import fleetcalls, show
    from dsctl.flows import fleetkeys, keys
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return show.keys(fleetkeys.ls(fleetcalls.opened(config, hosts)), are_wanted=True, json=json)
    project = open_project(config)
    show.keys(keys.ls(project), are_wanted=keys.are_wanted(project), json=json)
    return None


@group.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], config: Config = None, hosts: Hosts = "") -> None:
    """Make a key useless, within 5 s and for good."""
    from dsctl.cli import fleetcalls
    from dsctl.flows import fleetkeys, keys
    from dsctl.flows.project import open_project

    if fleetcalls.is_fleet(config, hosts):
        return fleetkeys.revoke(fleetcalls.opened(config, hosts), key_id)
    keys.revoke(open_project(config), key_id)
    return None
