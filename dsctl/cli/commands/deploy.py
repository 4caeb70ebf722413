"""`dsctl deploy`: make this machine serve what dsctl.yaml says."""

from __future__ import annotations

import typer

from dsctl.cli.options import Config, DryRun, Json, Mock, Quiet, Timeout, Verbose, Yes


def deploy(
    config: Config = None, mock: Mock = False, dry_run: DryRun = False, json: Json = False, yes: Yes = False,
    quiet: Quiet = False, verbose: Verbose = False, timeout: Timeout = 0,
) -> None:  # fmt: skip
    """Serve what dsctl.yaml says.

    Starts what is missing, replaces what changed one replica at a time, repairs what broke, and ends with a completion
    through the front. Without dsctl.yaml: two replicas of the bundled model. Run again, it goes on where it stopped.
    """
    from dsctl.cli import show
    from dsctl.flows import deploy as flow
    from dsctl.flows.project import open_project

    project = open_project(config, {"engine.kind": "oracle"} if mock else None, timeout_s=timeout)
    if dry_run:
        raise typer.Exit(show.plan(flow.plan_deploy(project).steps, json=json))
    voice = show.Terminal(is_quiet=quiet, is_verbose=verbose, agreed=yes)
    show.deployed(flow.deploy(project, voice), json=json)
