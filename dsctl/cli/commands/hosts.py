"""`dsctl hosts ls|check|trust`: the machines of the inventory."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Json

group = typer.Typer(name="hosts", rich_markup_mode=None, no_args_is_help=True, help="List, check and trust hosts.")
Hosts = Annotated[str, typer.Option("--hosts", metavar="PATTERN", help="Names, groups, patterns: gpu0[1-4].")]


@group.command()
def ls(hosts: Hosts = "all", config: Config = None, json: Json = False) -> None:
    """List the hosts a pattern names."""
    from dsctl.cli import hostshow
    from dsctl.config.settings import load
    from dsctl.flows import hosts as flow

    settings = load(config)
    hostshow.listed(flow.inventory(settings).select(hosts, base=flow.directory(settings)), json=json)


@group.command()
def check(hosts: Hosts = "", config: Config = None, json: Json = False) -> None:
    """Log in to every host, look at it, and say what is missing and what fixes it.

    DSCTL_SUDO_PASSWORD_FILE names a file with the password for sudo, where sudo asks.
    Exit 0: all are ready; 1: something is missing; 4: some do not answer; 6: none does, or a host key is not trusted.
    """
    from dsctl.cli import hostshow
    from dsctl.config.settings import load
    from dsctl.flows import hosts as flow

    checked = flow.check(load(config), hosts)
    hostshow.checked(checked, json=json)
    raise typer.Exit(flow.exit_code(checked))


@group.command()
def trust(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    fingerprint: Annotated[str, typer.Option("--fingerprint", metavar="SHA256:…", help="As the host shows it.")] = "",
    config: Config = None,
) -> None:
    """Remember a host's key beside dsctl.yaml, if it has the fingerprint given."""
    from dsctl.cli import show
    from dsctl.config.settings import load
    from dsctl.flows import hosts as flow

    written = flow.trust(load(config), name, fingerprint)
    show.result(f"{name}: added to {written}" if written else f"{name}: known already")
