"""What the charts of a run show: distributions, courses over time, stages, and the server's own metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from dsctl.bench import judge, metrics, statistics
from dsctl.bench.charts import Chart, Mark, Point, Series
from dsctl.bench.records import Record
from dsctl.bench.runs import Run

MOST_DOTS = 1500
MOST_BINS = 60
MOST_METRICS = 24
STEPS = 200
_NOT_METRICS = ("t", "time", "ok", "error")
T = TypeVar("T")


def distributions(run: Run, told: dict[str, Any]) -> list[Chart]:
    """First tokens, last tokens, pace, and gaps."""
    is_open = run.facts.mode == "open"
    groups = (
        (("ttft_sched", "ttft") if is_open else ("ttft",), "time to first token"),
        (("e2e_sched" if is_open else "e2e",), "time to the last token"),
        (("tpot",), "time per output token"),
        (("itl", "icl"), "time between tokens and between chunks"),
    )
    return [_distribution(run, told, names, title) for names, title in groups]


def _distribution(run: Run, told: dict[str, Any], names: Sequence[str], title: str) -> Chart:
    """The share of requests at or below each latency; failures are in the `_all` curve, which then ends below 100 %."""
    series: list[Series] = []
    sample = run.sample
    for name in names:
        metric = metrics.BY_NAME[name]
        found = metrics.values(metric, sample.ok)
        if len(found) == 0:
            continue
        lost = len(sample.bad) if metric.counts_failures else 0
        series.append(Series(name + ("_all" if lost else ""), cumulative(found, lost), colour=len(series) + 1))
    marks = [
        Mark("x", limit * 1000, f"{name} ≤ {limit * 1000:g} ms")
        for name, limit in _limits(told).items()
        if judge.metric_of(name, run.facts.mode) in names
    ]
    description = f"Cumulative distribution of {' and '.join(one.name for one in series)} in milliseconds."
    share = "% of requests" if metrics.BY_NAME[names[0]].one else "% of gaps"
    return Chart(title, description, "milliseconds", share, series, x_log=True, marks=marks)


def cumulative(values: metrics.Values, lost: int = 0) -> list[Point]:
    """(milliseconds, per cent at or below) at up to 200 places, finer in the tail; `lost` are never reached."""
    ordered = np.sort(values) * 1000
    n, whole = len(ordered), len(ordered) + lost
    shares = np.linspace(0, 1, n)
    if n > STEPS:
        shares = np.concatenate([np.linspace(0, 0.9, STEPS // 2), 1 - np.geomspace(0.1, 1 / n, STEPS // 2)])
    places = sorted({*(round(share * (n - 1)) for share in shares), n - 1})
    return [(float(ordered[i]), 100 * (i + 1) / whole) for i in places]


def courses(run: Run, told: dict[str, Any]) -> list[Chart]:
    """The headline and tpot of each request over time, throughput, and requests in flight."""
    names = [name for name in (told["headline"], "tpot") if name in told["metrics"]]
    return [*(_over_time(run, told, name) for name in names), *_load_over_time(run)]


def _over_time(run: Run, told: dict[str, Any], name: str) -> Chart:
    """Every request by when it was due, with the median and p95 of spans that hold enough of them; failures on top."""
    metric = metrics.BY_NAME[name]
    one = metric.one
    assert one is not None  # gaps have no single time
    rows = [
        (row.t_intended, value * 1000) for row in run.rows if row.status == "ok" and (value := one(row)) is not None
    ]
    lines = [
        Series(label, points, colour=colour)
        for label, mille, colour in (("p50", 500, 2), ("p95", 950, 3))
        if len(points := _quantiles(rows, mille)) > 1
    ]
    top = max((value for _, value in rows), default=1.0)
    failed = [(row.t_intended, top) for row in _thin(run.sample.bad)]
    series = [Series("requests", _thin(rows), "dots"), *lines]
    if failed and metric.counts_failures:
        series.append(Series("failed, unsent or unfinished", failed, "crosses", 4))
    marks = [
        Mark("y", limit * 1000, f"{word} ≤ {limit * 1000:g} ms")
        for word, limit in _limits(told).items()
        if judge.metric_of(word, run.facts.mode) == name
    ]
    words = f"{name} of each request in milliseconds over the time at which it was due; shaded time is not measured."
    shades, span = _shades(run), _span(run)
    return Chart(f"{name} over time", words, "seconds", "ms", series, marks=marks, shades=shades, x_range=span)


def _quantiles(rows: Sequence[Point], mille: int) -> list[Point]:
    """A percentile for spans with as many requests as it needs, at their middle."""
    least = statistics.needed(mille)
    ordered = sorted(rows)
    bins = min(MOST_BINS, len(ordered) // least)
    found: list[Point] = []
    for part in np.array_split(np.asarray(ordered), bins) if bins else []:
        value = statistics.percentile(np.sort(part[:, 1]), mille)
        if value is not None:
            found.append((float(part[:, 0].mean()), value))
    return found


def _load_over_time(run: Run) -> tuple[Chart, Chart]:
    """Tokens and requests per second, and requests in flight."""
    low, high = _span(run)
    edges = np.linspace(low, high, min(MOST_BINS, max(2, int(high - low))) + 1)
    rates = metrics.Events.of(run.rows).rates(edges)
    middle = (edges[1:] + edges[:-1]) / 2
    is_counted = bool(rates["output_tokens_per_s"].any())
    name = "output_tokens_per_s" if is_counted else "token_events_per_s"
    words = "output tokens/s" if is_counted else "token events/s"
    tokens = Chart(
        "throughput over time", f"{words} as they arrived; shaded time is not measured.", "seconds", words,
        [Series(words, list(zip(middle.tolist(), rates[name].tolist(), strict=True)))], shades=_shades(run),
        x_range=(low, high),
    )  # fmt: skip
    flight = Chart(
        "requests in flight", "Requests sent and not yet ended; shaded time is not measured.", "seconds", "requests",
        [Series("in flight", in_flight(run.rows, middle.tolist()))], shades=_shades(run), x_range=(low, high),
    )  # fmt: skip
    return tokens, flight


def in_flight(rows: Sequence[Record], times: Sequence[float]) -> list[Point]:
    """How many requests had been sent and had not ended, at each of the times."""
    sent = np.sort(np.asarray([row.t_send for row in rows if row.t_send is not None], dtype=np.float64))
    ended = np.sort(
        np.asarray(
            [row.t_close for row in rows if row.t_send is not None and row.t_close is not None], dtype=np.float64
        )
    )
    return [
        (time, float(np.searchsorted(sent, time, "right") - np.searchsorted(ended, time, "right"))) for time in times
    ]  # fmt: skip


def stages(told: dict[str, Any]) -> list[Chart]:
    """Latency against throughput, a point a stage; nothing for a run of one stage."""
    found: list[Chart] = []
    if len(told["stages"]) < 2:
        return found
    axis = "output_tokens_per_s"
    if any(stage["throughput"][axis] is None for stage in told["stages"]):
        axis = "requests_per_s"
    words = axis.removesuffix("_per_s").replace("_", " ") + "/s"
    for name in (told["headline"], "tpot"):
        series: list[Series] = []
        for colour, p in enumerate(("p50", "p95", "p99"), 1):
            points, labels = _stage_points(told, axis, name, p)
            if points:
                series.append(Series(f"{name} {p}", points, colour=colour, labels=labels if colour == 1 else ()))
                series.append(Series("", points, "dots", colour))
        description = f"{name} in milliseconds against {words}: a point a stage of the load, labelled by its target."
        found.append(Chart(f"{name} against throughput", description, words, "ms", series))
    return found


def _stage_points(told: dict[str, Any], axis: str, name: str, p: str) -> tuple[list[Point], list[str]]:
    points: list[Point] = []
    labels: list[str] = []
    for stage in told["stages"]:
        metrics: dict[str, dict[str, Any]] = stage["metrics"]
        value = metrics[name][p] if name in metrics else None
        rate = stage["throughput"][axis]
        if isinstance(value, float) and rate is not None:
            points.append((rate, value * 1000))
            labels.append(f"{stage['target']:g}")
    return points, labels


def server_metrics(run: Run) -> list[Chart]:
    """Each of the server's own metrics that was scraped, over the same time; those that never change are left out."""
    samples = run.facts.server_metrics
    names = sorted({name for sample in samples for name in sample if name not in _NOT_METRICS})
    charts: list[Chart] = []
    for name in names:
        points = [
            (float(sample["t"]), float(sample[name]))
            for sample in samples
            if isinstance(sample.get(name), int | float) and math.isfinite(sample[name]) and "t" in sample
        ]
        if len({value for _, value in points}) > 1:
            words = f"{name} as the server told it; shaded time is not measured."
            charts.append(
                Chart(name, words, "seconds", "", [Series(name, points)], shades=_shades(run), x_range=_span(run))
            )
    return charts[:MOST_METRICS]


def _limits(told: dict[str, Any]) -> dict[str, float]:
    return told["goodput"]["limits"] if told["goodput"] else {}


def _span(run: Run) -> Point:
    window = run.facts.window
    ends = [row.t_close for row in run.rows if row.t_close is not None]
    starts = [row.t_intended for row in run.rows]
    return min([window.start, *starts]), max([window.end, *ends])


def _shades(run: Run) -> list[Point]:
    low, high = _span(run)
    window = run.facts.window
    spans: tuple[Point, ...] = ((low, window.start), (window.end, high))
    return [span for span in spans if span[1] > span[0]]


def _thin(values: Sequence[T]) -> Sequence[T]:
    """At most 1 500 of them, evenly."""
    places: list[int] = np.linspace(0, len(values) - 1, min(MOST_DOTS, len(values))).astype(int).tolist()
    return [values[place] for place in places]
