"""`dsctl bench compare|gate|report`: what finished runs say, as text, Markdown or JSON, and the exit code for CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsctl.base.exits import Exit
from dsctl.cli.options import Json

if TYPE_CHECKING:
    from dsctl.bench.slo import Objectives

Slo = Annotated[
    str | None,
    typer.Option(
        "--slo", metavar="LIMITS",
        help="ttft=500ms,tpot=50ms,e2e=10s (each request); ttft_p99=1s,error_rate=1%,goodput=5 (the run).",
    ),
]  # fmt: skip
Preset = Annotated[str | None, typer.Option("--slo-preset", metavar="NAME", help="Known limits; --slo changes them.")]
Attainment = Annotated[
    float | None, typer.Option("--attainment", metavar="SHARE", help="Share of requests that must meet --slo [0.99].")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 also for what is not settled by so few requests.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Markdown on stdout, for a CI summary.")]


def add_to(group: typer.Typer) -> None:
    """Adds these verbs to `dsctl bench`."""
    verbs: tuple[Callable[..., None], ...] = (compare, gate, report)
    for verb in verbs:
        group.command()(verb)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run, or a directory of repeated runs.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is judged against it.")],
    max_regression: Annotated[
        str | None,
        typer.Option("--max-regression", metavar="LIMITS", help="ttft_p99=5%,tpot_p50=3%: exit 1 when worse by more."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.5, help="Chance of a false alarm.")] = 0.01,
    across: Annotated[
        str, typer.Option("--across", metavar="NAMES", help="What may differ, e.g. model,quantisation.")
    ] = "",
    slo: Slo = None, strict: Strict = False, markdown: Markdown = False, json: Json = False,
) -> None:  # fmt: skip
    """Say whether B is better or worse than A, how sure that is, and what could not have been seen."""
    from dsctl.cli import show
    from dsctl.flows import judging

    _need()
    wish = judging.Comparing(a, b, max_regression, alpha, frozenset(filter(None, across.split(","))), slo)
    found = judging.compare(wish)
    if json:
        show.json(judging.comparison_json(wish, found))
    else:
        from dsctl.bench import summary

        show.result((summary.comparison_markdown if markdown else summary.comparison)(found, str(a), str(b)))
    raise typer.Exit(Exit.FAILED if found.regressions or (strict and found.undecided) else Exit.OK)


def gate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a directory of repeated runs.")],
    slo: Slo = None, slo_preset: Preset = None, attainment: Attainment = None, strict: Strict = False,
    markdown: Markdown = False, json: Json = False,
) -> None:  # fmt: skip
    """Exit 0 when a finished run meets the objectives, 1 naming those it misses, 9 when it cannot tell."""
    from dsctl.bench import summary
    from dsctl.cli import show
    from dsctl.flows import judging

    found = judging.gate(directory, _objectives(slo, slo_preset, attainment))
    if json:
        show.json(judging.gate_json(found))
    elif markdown:
        show.result("\n".join(summary.markdown(one.told) for one in found))
    else:
        show.result("\n".join(judging.gate_lines(found)))
    is_failed = any(one.failed or (strict and one.unsettled) for one in found)
    raise typer.Exit(Exit.FAILED if is_failed else Exit.OK)


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a directory of repeated runs.")],
    slo: Slo = None, slo_preset: Preset = None, attainment: Attainment = None, markdown: Markdown = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Where the page goes [DIR/report.html].")
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Show a finished run on one screen and write report.html, which needs no network."""
    from dsctl.bench import summary
    from dsctl.cli import show
    from dsctl.flows import judging

    found = judging.report(directory, _objectives(slo, slo_preset, attainment), html)
    if json:
        show.json({"runs": [{"path": str(one.path), "report": str(one.page), **one.told} for one in found]})
        return
    for one in found:
        show.result(summary.markdown(one.told) if markdown else summary.screen(one.told))
        show.aside(f"report: {one.page}\n")


def without_bare_html(args: list[str]) -> list[str]:
    """`report DIR --html` asks for the page where it goes anyway."""
    return [
        word
        for word, after in zip(args, [*args[1:], "-"], strict=True)
        if word != "--html" or not after.startswith("-")
    ]


def _objectives(slo: str | None, preset: str | None, attainment: float | None) -> Objectives | None:
    from dsctl.bench import slo as objectives

    _need()
    return objectives.wished(slo, preset, attainment)


def _need() -> None:
    """The statistics need numpy, which the extra [bench] brings."""
    from dsctl.flows import foreground

    foreground.need("bench", "bench")
