"""`dsctl config show|schema`: what is set, and what could be."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, Json

group = typer.Typer(name="config", rich_markup_mode=None, no_args_is_help=True, help="Show settings and their schema.")


@group.command("show")
def show_settings(config: Config = None, json: Json = False) -> None:
    """Print every setting: from the file where it says so, else the default."""
    from dsctl.cli import show
    from dsctl.flows import settings

    found = settings.resolved(config)
    show.settings(found, json=json)


@group.command()
def schema(json: Json = False) -> None:
    """Print the commented reference of all settings (--json: as JSON Schema)."""
    from dsctl.cli import show
    from dsctl.flows import settings

    show.document(settings.json_schema() if json else settings.reference())
