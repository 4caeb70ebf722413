"""`dsctl init`: a first dsctl.yaml."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config


def init(
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    hosts: Annotated[str, typer.Option("--hosts", metavar="NAMES", help="Also hosts.yaml: gpu0[1-4], or a,b,c.")] = "",
) -> None:
    """Write a first dsctl.yaml.

    Every setting is in it, explained and commented out.
    """
    from dsctl.cli import show
    from dsctl.flows import settings

    show.result(str(settings.init(config, is_forced=force, hosts=hosts)))
