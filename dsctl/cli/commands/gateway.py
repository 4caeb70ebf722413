"""`dsctl gateway`: the gateway in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config

NoAuth = Annotated[bool, typer.Option("--no-auth", help="Listen beyond this machine without asking for keys.")]


def gateway(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    no_auth: NoAuth = False, config: Config = None,
) -> None:  # fmt: skip
    """Run the gateway in the foreground.

    It serves the replica table that deploy keeps.
    """
    from dsctl.flows import foreground
    from dsctl.flows.project import open_project

    arguments = ["--host", host, "--port", str(port)] + (["--no-auth"] if no_auth else [])
    foreground.gateway(open_project(config), arguments)
