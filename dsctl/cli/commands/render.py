"""`dsctl render supervisor`: the configuration dsctl would write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsctl.cli.options import Config, Json

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
