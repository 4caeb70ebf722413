"""`dsctl provision`: hosts get what serving needs, by the playbooks in playbooks/."""

from __future__ import annotations

from typing import Annotated

import typer

from dsctl.cli.options import Config, Hosts, Json, Quiet, Yes

Check = Annotated[bool, typer.Option("--check", help="Show what would change, change nothing; exit 3 if anything.")]
Only = Annotated[str, typer.Option("--only", metavar="PARTS", help="users,limits,time,logs,network,docker,toolkit")]
Driver = Annotated[str, typer.Option("--driver", metavar="VERSION", help="Also this NVIDIA driver; hosts restart.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A variable of the playbooks.")]


def provision(
    hosts: Hosts = "", check: Check = False, only: Only = "", driver: Driver = "", variables: Set = None,
    config: Config = None, yes: Yes = False, quiet: Quiet = False, json: Json = False,
) -> None:  # fmt: skip
    """Give hosts users, limits, Docker and the rest.

    Also clocks, rotated logs, kernel settings, and NVIDIA's toolkit where there are cards. Run again, it changes
    nothing. The driver is touched only with --driver. By hand: ansible-playbook site.yml
    """
    from dsctl.cli import provisionshow, show
    from dsctl.config.settings import load
    from dsctl.flows import provision as flow

    parts = tuple(each for each in only.split(",") if each)
    wanted = flow.Wanted(parts, driver, flow.variables(variables or []), check)
    found = flow.provision(load(config), hosts, wanted, show.Terminal(is_quiet=quiet, agreed=yes))
    provisionshow.done(found, is_check=check, json=json)
    raise typer.Exit(flow.exit_code(found, is_check=check))
