"""report.html: one file with all in it, no script and no network, readable in the dark and by a screen reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsctl.base.errors import UsageError
from dsctl.base.places import data_root
from dsctl.bench import charts, summary, timeline
from dsctl.bench.charts import Chart
from dsctl.bench.runs import Run

OUTCOMES = ("pass", "fail", "unknown")
VERDICTS = {
    "invalid": "invalid: these figures prove nothing",
    "unknown": "not settled",
    "measured": "measured, no objective was set",
}
MOST_FIGURES = 40  # rows of the table under a chart


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; `kind` is `numbers` (to the right) or `words`."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: str = "numbers"


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart as SVG, its legend, and its points as a table for those who need figures."""

    chart: Chart
    svg: Any  # markupsafe.Markup: it is ours and escapes what it was given
    legend: Sequence[tuple[str, Any]]
    table: Table


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what stands under it."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()


def write(path: Path, run: Run, told: dict[str, Any]) -> None:
    """The page of a run, whole or not at all; UsageError when it cannot be written there."""
    staged = path.with_name(path.name + ".new")
    try:
        staged.write_text(page(run, told), encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written", why=str(error), hint="--html FILE") from error


def page(run: Run, told: dict[str, Any]) -> str:
    """The whole page; `told` is run.json with the objectives asked for. What the data holds is shown, never obeyed."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = data_root() / "templates" / "report"
    environment = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        Section("Objectives", tables=_objectives(told)),
        Section("Latency", tables=[_latency(told)], lines=summary.notes(told)),
        Section("Distribution", _figures(timeline.distributions(run, told))),
        Section("Over time", _figures(timeline.courses(run, told))),
        Section("Stages", _figures(timeline.stages(told)), _stages(told)),
        Section("Server metrics", _figures(timeline.server_metrics(run))),
        Section(
            "Requests and client", (), _accounts(told), [f"{name}: {words}" for name, words in summary.facts(told)]
        ),
        Section("What was asked, and where", (), _setting(told)),
    ]
    return environment.get_template("report.html.j2").render(
        told={"dsctl_version": "", **told},
        title=summary.title(told),
        verdict=VERDICTS.get(told["verdict"], told["verdict"]),
        tiles=_tiles(told),
        outcomes=OUTCOMES,
        sections=[section for section in sections if section.figures or section.tables or section.lines],
        style=Markup((templates / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
    )


def _tiles(told: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures a run is known by."""
    found: list[tuple[str, str]] = []
    for name in (told["headline"], "tpot"):
        got = told["metrics"].get(name)
        for p in ("p50", "p99"):
            value = summary.milliseconds(got[p]) if got else "n/a"
            found.append((f"{name} {p}", f"{value} ms" if value[0].isdigit() else value))
    found.append(("output tokens/s", summary.rate(told["throughput"]["output_tokens_per_s"])))
    if told["goodput"] and told["goodput"]["attainment"] is not None:
        found.append(("met all limits", f"{told['goodput']['attainment']:.2%}"))
    return [*found, ("failed", _share(told["error_rate"]))]


def _objectives(told: dict[str, Any]) -> list[Table]:
    rows = [(one["name"], one["outcome"], one["words"]) for one in told["slo"]]
    return (
        [Table("Each objective and how it was met", ("objective", "outcome", "figures"), rows, "words")] if rows else []
    )


def _latency(told: dict[str, Any]) -> Table:
    known: dict[str, str] = told["definitions"]
    heads = ("milliseconds", *(summary.HEADINGS.get(name, name) for name in summary.COLUMNS), "formula")
    rows = [(*row, known.get(row[0].removesuffix(summary.HEADLINE)) or known["*_all"]) for row in summary.rows(told)]
    return Table("Latencies; ◀ is the headline, n/a needs more requests", heads, rows)


def _stages(told: dict[str, Any]) -> list[Table]:
    if len(told["stages"]) < 2:
        return []
    head = told["headline"]
    heads = ("stage", "target", "requests/s", "output tokens/s", f"{head} p50", "p95", "tpot p50", "p95", "failed")
    return [Table("Stages; latencies in milliseconds", heads, [_stage(stage, head) for stage in told["stages"]])]


def _stage(stage: dict[str, Any], head: str) -> tuple[str, ...]:
    rates = [summary.rate(stage["throughput"][name]) for name in ("requests_per_s", "output_tokens_per_s")]
    metrics: dict[str, dict[str, Any]] = stage["metrics"]
    times = [
        summary.milliseconds(metrics[name][p]) if name in metrics else "n/a"
        for name in (head, "tpot")
        for p in ("p50", "p95")
    ]
    return (str(stage["index"]), f"{stage['target']:g}", *rates, *times, _share(stage["error_rate"]))


def _accounts(told: dict[str, Any]) -> list[Table]:
    counted = [(name, str(count)) for name, count in told["counts"].items() if count]
    return [
        Table("How requests ended", ("requests", "count"), counted),
        Table("The client's own check, in seconds and shares", ("check", "value"), _pairs(told["self_check"])),
    ]


def _setting(told: dict[str, Any]) -> list[Table]:
    hashes = [(name, str(told[name])) for name in ("request_set_sha256", "schedule_sha256")]
    return [
        Table("Options", ("option", "value"), [*_pairs(told["config"]), *hashes], "words"),
        Table("Environment", ("environment", "value"), _pairs(told["env"]), "words"),
    ]


def _pairs(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _plain(values[name])) for name in sorted(values)]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2%}"


def _figures(drawn: Iterable[Chart]) -> list[Figure]:
    from markupsafe import Markup

    return [
        Figure(
            chart,
            Markup(charts.draw(chart)),  # noqa: S704 - its texts are escaped there
            [(name, Markup(sample)) for name, sample in charts.legend(chart)],  # noqa: S704 - a fixed drawing
            _points(chart),
        )
        for chart in drawn
        if any(series.points for series in chart.series)
    ]


def _points(chart: Chart) -> Table:
    rows = [
        (series.name, f"{x:.6g}", f"{y:.6g}")
        for series in chart.series
        if series.name
        for x, y in list(series.points)[:: max(1, len(series.points) // MOST_FIGURES)]
    ]
    return Table(f"Points of {chart.title}", ("series", chart.x_label, chart.y_label or "value"), rows)
