"""The options that mean the same on every verb, and what they are gathered into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings; default: ./dsctl.yaml if it is there.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Agree to what would otherwise be asked.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the steps, do nothing; exit 3 when there are any.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also details.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after this; 0: never.")]
Mock = Annotated[bool, typer.Option("--mock", help="Serve with the stand-in engine instead of a model.")]
Hosts = Annotated[str, typer.Option("--hosts", metavar="PATTERN", help="Hosts, groups, patterns; default: dsctl.yaml.")]
Canary = Annotated[
    str,
    typer.Option("--canary", metavar="PERCENT", help="Let the first new copy prove itself on that part of requests."),
]
CanaryHold = Annotated[bool, typer.Option("--canary-hold", help="Then stop, until `canary promote` or `abort`.")]
Events = Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Append what happens as JSON lines.")]
Unreachable = Annotated[bool, typer.Option("--skip-unreachable", help="Leave hosts that do not answer as they are.")]
