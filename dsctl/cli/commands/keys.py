"""`dsctl keys issue|ls|revoke`: who may use the front."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Json

group = typer.Typer(name="keys", rich_markup_mode=None, no_args_is_help=True, help="Issue, list and revoke API keys.")


@group.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for the list.")] = "",
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Make a key and print it, this once; only its hash is kept."""
    from dsctl.cli import show
    from dsctl.flows import keys
    from dsctl.flows.project import open_project

    key_id, key = keys.issue(open_project(config), name)
    show.issued(key_id, key, json=json)


@group.command()
def ls(config: Config = None, json: Json = False) -> None:
    """List the keys, by id."""
    from dsctl.cli import show
    from dsctl.flows import keys
    from dsctl.flows.project import open_project

    project = open_project(config)
    show.keys(keys.ls(project), are_wanted=keys.are_wanted(project), json=json)


@group.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], config: Config = None) -> None:
    """Make a key useless, within 5 s and for good."""
    from dsctl.flows import keys
    from dsctl.flows.project import open_project

    keys.revoke(open_project(config), key_id)
