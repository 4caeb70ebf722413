"""`dsctl doctor`: what is wrong, why, and what fixes it; `explain` and `rules` show the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

from dsctl.cli.options import DryRun, Json, Yes

MANY = ("--logs", "--only", "--config")


class ManyValues(TyperGroup):
    """Lets `--logs a.log b.log` mean `--logs a.log --logs b.log`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Repeats the option before each of its further values."""
        return super().parse_args(ctx, spread(args))  # pyright: ignore[reportArgumentType]


def spread(args: list[str]) -> list[str]:
    """`args` with an option of many values repeated before each value. `-` is a value (standard input)."""
    result: list[str] = []
    option, values = "", 0
    for word in args:
        if option and values == 0:
            values += 1
        elif word in MANY:
            option, values = word, 0
        elif option in ("--logs", "--only") and (not word.startswith("-") or word == "-"):
            result.append(option)
        else:
            option = ""
        result.append(word)
    return result


group = typer.Typer(
    name="doctor", cls=ManyValues, rich_markup_mode=None, invoke_without_command=True,
    help="Say what is wrong, why, and what fixes it.\n\nReads logs (--logs), or looks at this machine.",
)  # fmt: skip


Logs = Annotated[
    list[str] | None, typer.Option("--logs", metavar="FILE|DIR|-", help="Logs to read; several may follow.")
]
Configs = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", metavar="FILE|ARGS", help="dsctl.yaml, a model's config.json, or engine options in quotes."
    ),
]
Live = Annotated[bool, typer.Option("--live", help="Look at this machine too when logs are given.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="RULE", help="Judge only these rules.")]
FailOn = Annotated[str, typer.Option("--fail-on", metavar="SEVERITY", help="Exit 1 from this severity on.")]
Threshold = Annotated[str, typer.Option("--threshold", metavar="SEVERITY", help="Show from this severity on.")]
Hosts = Annotated[str, typer.Option("--hosts", metavar="G", help="Look at these hosts or groups of the inventory.")]
Since = Annotated[str, typer.Option("--since", metavar="1h", help="Only the last hours of logs (s, m, h, d).")]
Sample = Annotated[str, typer.Option("--sample", metavar="10s", help="Look at counters twice, that far apart.")]
Out = Annotated[str, typer.Option("--out", metavar="BUNDLE", help="Also write all evidence, redacted, to this tar.gz.")]
From = Annotated[str, typer.Option("--from", metavar="BUNDLE", help="Judge a bundle that --out wrote elsewhere.")]
Format = Annotated[str, typer.Option("--format", metavar="text|markdown|json", help="The form of the report.")]
Deep = Annotated[
    bool,
    typer.Option("--deep", help="Also test memory, disk, cards, collectives, network, kernels and the front actively."),
]
Disruptive = Annotated[bool, typer.Option("--disruptive", help="With --deep: test cards that are in use, too.")]
Fix = Annotated[bool, typer.Option("--fix", help="Make the listed, reversible repairs of what was found.")]
Incomplete = Annotated[bool, typer.Option("--allow-incomplete", help="Exit 0 though a probe gave no answer.")]


@group.callback()
def doctor(
    ctx: typer.Context,
    logs: Logs = None,
    config: Configs = None,
    live: Live = False,
    hosts: Hosts = "",
    only: Only = None,
    fail_on: FailOn = "critical",
    threshold: Threshold = "warning",
    allow_incomplete: Incomplete = False,
    since: Since = "",
    sample: Sample = "",
    out: Out = "",
    from_: From = "",
    form: Format = "text",
    deep: Deep = False,
    disruptive: Disruptive = False,
    fix: Fix = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Diagnose logs or this machine."""
    if ctx.invoked_subcommand is not None:
        return
    from dsctl.cli import diagnosis
    from dsctl.flows import diagnose
    from dsctl.flows.diagnose import Wish

    apart = diagnose.duration(sample or ("10s" if deep else ""), "--sample")
    wish = Wish(
        tuple(logs or ()), tuple(config or ()), tuple(only or ()), live,
        since=since, bundle=from_, hosts=hosts, sample_s=apart,
    )  # fmt: skip
    limits = diagnosis.Limits(fail_on, threshold, allow_incomplete, "json" if json else form, out)
    raise typer.Exit(diagnosis.run(wish, limits, diagnosis.Deeds(deep, fix, yes, dry_run, disruptive)))


@group.command()
def explain(rule: str, json: Json = False) -> None:
    """Show one rule: what it means, its fix and how to verify it."""
    from dsctl.cli import show
    from dsctl.doctor import report
    from dsctl.flows import diagnose

    found = diagnose.rule_named(rule)
    show.diagnosed(report.rule_json(found) if json else report.explain(found))


@group.command()
def rules(json: Json = False) -> None:
    """List every rule."""
    from dsctl.cli import show
    from dsctl.doctor import report
    from dsctl.flows import diagnose

    found = list(diagnose.selected(()).values())
    rows = [("RULE", "SEVERITY", "AREA", "TITLE"), *((r.id, r.severity, r.category, r.title) for r in found)]
    show.diagnosed({"rules": [report.rule_json(rule) for rule in found]} if json else show.columns(rows))


@group.command()
def schema() -> None:
    """Print the JSON Schema of `dsctl doctor --json`."""
    from dsctl.cli import show
    from dsctl.doctor import reportschema

    show.document(reportschema.schema())
