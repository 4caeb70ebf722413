"""`dsctl render supervisor|docker|compose|nginx|systemd`: the configuration dsctl would write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsctl.cli.options import Config, Json

if TYPE_CHECKING:
    from dsctl.config.settings import Settings

group = typer.Typer(name="render", rich_markup_mode=None, no_args_is_help=True, help="Print rendered configuration.")
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write the files below DIR instead.")]


@group.command()
def supervisor(config: Config = None, out: Out = None, json: Json = False) -> None:
    """Print supervisord's configuration and its programs'; ports and tokens are examples until deploy settles them."""
    from dsctl.cli import show
    from dsctl.flows import rendered
    from dsctl.flows.project import open_project

    files = rendered.supervisor(open_project(config))
    if out is not None:
        show.result("\n".join(str(path) for path in rendered.write(files, out)))
    else:
        show.files(files, json=json)


@group.command()
def docker(config: Config = None, out: Out = None, json: Json = False) -> None:
    """Print the Dockerfiles of the engine (processor, cards) and the front."""
    from dsctl.flows import fleetrendered

    _show(fleetrendered.docker(_settings(config)), out, json=json)


@group.command()
def compose(config: Config = None, out: Out = None, json: Json = False) -> None:
    """Print a compose file with the very containers a deploy creates; addresses and cards are examples."""
    from dsctl.flows import fleetrendered

    _show(fleetrendered.compose_file(_settings(config)), out, json=json)


@group.command()
def nginx(config: Config = None, out: Out = None, json: Json = False) -> None:
    """Print nginx.conf of a front host; addresses are examples."""
    from dsctl.flows import fleetrendered

    _show(fleetrendered.nginx(_settings(config)), out, json=json)


@group.command()
def systemd(config: Config = None, out: Out = None, json: Json = False) -> None:
    """Print the unit that makes Docker wait for the cards after a power cut."""
    from dsctl.flows import fleetrendered

    _show(fleetrendered.systemd(_settings(config)), out, json=json)


def _settings(config: Path | None) -> Settings:
    from dsctl.config.settings import load

    return load(config)


def _show(files: dict[str, str], out: Path | None, *, json: bool) -> None:
    from dsctl.cli import show
    from dsctl.flows import rendered

    if out is not None:
        show.result("\n".join(str(path) for path in rendered.write(files, out)))
    elif len(files) == 1 and not json:
        show.result(next(iter(files.values())))
    else:
        show.files(files, json=json)
