"""`dsctl weights push|verify|ls|gc`: the checkpoint on the hosts of a fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, DryRun, Hosts, Json, Quiet, Verbose, Yes

group = typer.Typer(name="weights", rich_markup_mode=None, no_args_is_help=True, help="Bring weights to hosts.")
From = Annotated[str, typer.Argument(metavar="[SOURCE]", help="A directory, HOST:/path, or https://…/resolve/REV.")]


@group.command()
def push(
    source: From = "", hosts: Hosts = "", config: Config = None, dry_run: DryRun = False, json: Json = False,
    quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Bring the weights to every host, as `model` in dsctl.yaml names them.

    The source sends once; then hosts send to each other, twice as many every round. Every chunk is verified by the
    source's hash; what is there is not sent again; a directory gets its name when all of it is right.
    """
    from dsctl.cli import fleetcalls, show, weightshow
    from dsctl.flows import weights as flow

    fleet = fleetcalls.opened(config, hosts)
    if dry_run:
        raise typer.Exit(weightshow.planned(flow.plan_push(fleet, source), json=json))
    weightshow.pushed(flow.push(fleet, source, show.Terminal(is_quiet=quiet, is_verbose=verbose)), json=json)


@group.command()
def verify(hosts: Hosts = "", config: Config = None, json: Json = False, quiet: Quiet = False) -> None:
    """Hash every chunk on every host; exit 1 when one is wrong. The next push brings what is."""
    from dsctl.cli import fleetcalls, show, weightshow
    from dsctl.flows import weights as flow

    raise typer.Exit(
        weightshow.verified(flow.verify(fleetcalls.opened(config, hosts), show.Terminal(is_quiet=quiet)), json=json)
    )


@group.command()
def ls(hosts: Hosts = "", config: Config = None, json: Json = False) -> None:
    """List what lies beside `model` on every host."""
    from dsctl.cli import fleetcalls, fleetshow
    from dsctl.flows import weights as flow

    fleetshow.table(flow.ls(fleetcalls.opened(config, hosts)), "weights", json=json)


@group.command()
def gc(
    hosts: Hosts = "", config: Config = None, dry_run: DryRun = False, yes: Yes = False, json: Json = False
) -> None:  # fmt: skip
    """Remove weights that dsctl brought and that no kept release names."""
    from dsctl.cli import fleetcalls, fleetshow, show
    from dsctl.flows import weights as flow

    fleet = fleetcalls.opened(config, hosts)
    if dry_run:
        raise typer.Exit(fleetshow.steps(flow.plan_gc(fleet), json=json))
    fleetshow.steps(flow.gc(fleet, show.Terminal(agreed=yes)), json=json)
