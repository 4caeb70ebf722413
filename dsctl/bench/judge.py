"""Turns the raw records and the run's own facts into run.json: metrics, stages, goodput, objectives and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from dsctl.bench import metrics, statistics
from dsctl.bench.metrics import Sample
from dsctl.bench.records import Record, RunFacts, Stage, Window
from dsctl.bench.slo import Bound, Objectives

Outcome = Literal["pass", "fail", "unknown"]
Mode = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One objective against a run: what it was, what was found, and whether that settles it."""

    name: str  # ttft, tpot_p99, error_rate, attainment …
    on: str  # the metric it was judged by (ttft_sched in open loop)
    limit: float
    found: float | None  # the share that met a limit on requests; the value itself for a limit on the run
    outcome: Outcome
    is_proven: bool  # the interval agrees with the outcome
    words: str  # one sentence with the figures

    def as_json(self) -> dict[str, Any]:
        """As it stands in run.json `slo`."""
        return {
            "name": self.name, "on": self.on, "limit": self.limit, "found": metrics.number(self.found),
            "outcome": self.outcome, "proven": self.is_proven, "words": self.words,
        }  # fmt: skip


def metric_of(name: str, mode: Mode) -> str:
    """What a word is judged by: in open loop times count from the schedule, or a late client flatters the server."""
    return f"{name}_sched" if mode == "open" and name in ("ttft", "e2e") else name


def is_good(record: Record, limits: dict[str, float], mode: Mode) -> bool:
    """True when the request ended well and met every limit; a tpot that is undefined (one token) meets its limit.

    Where the server told no count, tpot cannot be known: the mean gap between events stands in for it.
    """
    return record.status == "ok" and all(meets(record, name, limit, mode) for name, limit in limits.items())


def meets(record: Record, name: str, limit: float, mode: Mode) -> bool:
    """True when a request that ended well meets one limit."""
    one = metrics.BY_NAME[metric_of(name, mode)].one
    value = one(record) if one is not None else None
    if value is None and name == "tpot":
        if record.n_out is not None or not record.gaps:
            return True
        value = sum(record.gaps) / len(record.gaps)
    return value is not None and value <= limit


def goodput(found: Sample, limits: dict[str, float], mode: Mode, seconds: float) -> dict[str, Any]:
    """Good requests, their share of all attempted with Wilson's interval, and their rate; counts come with them."""
    good = sum(1 for record in found.ok if is_good(record, limits, mode))
    low, high = statistics.wilson(good, found.attempted)
    return {
        "good": good,
        "attempted": found.attempted,
        "attainment": good / found.attempted if found.attempted else None,
        "wilson95": [low, high],
        "per_second": good / seconds if seconds > 0 else None,
        "per_second_ci95": [bound * found.attempted / seconds for bound in (low, high)] if seconds > 0 else None,
        "limits": limits,
    }


def block(records: Sequence[Record], window: Window, mode: Mode, objectives: Objectives | None) -> dict[str, Any]:
    """Counts, metrics, throughput and goodput of one span of time: of the run, or of a stage."""
    found = metrics.sample(records, window)
    limits = objectives.requests if objectives else {}
    return {
        "counts": metrics.counts(records, found),
        "metrics": metrics.summaries(found),
        "throughput": metrics.throughput(records, window),
        "goodput": goodput(found, limits, mode, window.seconds) if limits else None,
        "error_rate": len(found.bad) / found.attempted if found.attempted else None,
    }


def document(facts: RunFacts, records: Sequence[Record], objectives: Objectives | None = None) -> dict[str, Any]:
    """The whole of run.json, whatever the order of the rows. An invalid run has no other verdict: it proves nothing."""
    records = sorted(records, key=lambda record: record.id)
    told: dict[str, Any] = msgspec.to_builtins(facts)
    whole = block(records, facts.window, facts.mode, objectives)
    judged = judge(whole, objectives, facts.mode, records, facts.window) if objectives else []
    verdict, reasons = conclude(facts, judged)
    return (
        told
        | whole
        | {
            "definitions_version": metrics.DEFINITIONS_VERSION,
            "definitions": metrics.FORMULAS,
            "headline": headline(facts.mode),
            "stages": [_stage(stage, records, facts.mode, objectives) for stage in facts.stages],
            "slo": [one.as_json() for one in judged],
            "objectives": objectives.as_json() if objectives else None,
            "verdict": verdict,
            "reasons": reasons,
        }
    )


def headline(mode: Mode) -> str:
    """The latency a run is known by."""
    return metric_of("ttft", mode)


def _stage(stage: Stage, records: Sequence[Record], mode: Mode, objectives: Objectives | None) -> dict[str, Any]:
    own = [record for record in records if record.stage == stage.index]
    span = Window(stage.start, stage.end)
    told = block(own, span, mode, objectives)
    told["throughput"] = metrics.throughput(
        records, span
    )  # tokens of an earlier stage's requests arrive in this one too
    return msgspec.to_builtins(stage) | told


def judge(
    whole: dict[str, Any], objectives: Objectives, mode: Mode, records: Sequence[Record], window: Window
) -> list[Judged]:
    """Every objective against the run; limits on requests one by one (the failing one has a name), and all together."""
    found = metrics.sample(records, window)
    single = [
        _share(name, metric_of(name, mode), limit, _met(found, name, limit, mode), found.attempted, objectives)
        for name, limit in objectives.requests.items()
    ]
    if len(single) > 1:
        together = whole["goodput"]["good"]
        single.append(_share("all limits", "attainment", objectives.attainment, together, found.attempted, objectives))
    return [*single, *(_bound(bound, whole, mode) for bound in objectives.bounds)]


def _met(found: Sample, name: str, limit: float, mode: Mode) -> int:
    return sum(1 for record in found.ok if meets(record, name, limit, mode))


def _share(name: str, on: str, limit: float, good: int, total: int, objectives: Objectives) -> Judged:
    """A limit on requests: passes when the share that meets it reaches the attainment."""
    wanted = objectives.attainment
    if total == 0:
        return Judged(name, on, limit, None, "unknown", False, f"{name}: no request was measured")
    low, high = statistics.wilson(good, total)
    share = good / total
    passes = share >= wanted
    proven = low >= wanted if passes else high < wanted
    what = f"{on} ≤ {limit:g} s" if name in objectives.requests else "all limits together"
    words = (
        f"{what}: {share:.2%} of {total} requests (95 % interval {low:.2%} – {high:.2%}), wanted {wanted:.2%}"
        + ("" if proven else f"; not settled by {total} requests")
    )  # fmt: skip
    return Judged(name, on, limit, share, "pass" if passes else "fail", proven, words)


def _bound(bound: Bound, whole: dict[str, Any], mode: Mode) -> Judged:
    """A limit on the run's own figure; a percentile is that of the `_all` form, so dropped requests cannot help."""
    on, found, interval, lack = figure(bound.name, whole, mode)
    if found is None:
        return Judged(bound.name, on, bound.limit, None, "unknown", False, f"{bound.name}: n/a ({lack})")
    passes = found >= bound.limit if bound.at_least else found <= bound.limit
    low, high = interval or (found, found)
    proven = interval is not None and (
        (low >= bound.limit if bound.at_least else high <= bound.limit)
        if passes
        else (high < bound.limit if bound.at_least else low > bound.limit)
    )
    words = f"{on}: {found:.4g}, wanted {'≥' if bound.at_least else '≤'} {bound.limit:g}"
    if interval is not None:
        words += f" (95 % interval {low:.4g} – {high:.4g})" + ("" if proven else "; not settled by this run")
    return Judged(bound.name, on, bound.limit, found, "pass" if passes else "fail", proven, words)


def figure(name: str, whole: dict[str, Any], mode: Mode) -> tuple[str, float | None, tuple[float, float] | None, str]:
    """A figure of a run by its name: (what it was taken from, value, 95 % interval, why there is none)."""
    if name == "error_rate":
        value = whole["error_rate"]
        total = whole["counts"]["measured"] - whole["counts"]["left"]
        interval = statistics.wilson(round(value * total), total) if value is not None else None
        return name, value, interval, "no request was measured"
    if name == "goodput":
        told = whole["goodput"]
        if told is None:
            return name, None, None, "goodput needs --slo with limits on requests, as ttft=500ms"
        spread = told["per_second_ci95"]
        return name, told["per_second"], (spread[0], spread[1]) if spread else None, "the window has no length"
    if name in whole["throughput"]:
        return name, whole["throughput"][name], None, "the server told no token counts"
    base, _, p = name.rpartition("_")
    on = metric_of(base, mode)
    told = whole["metrics"].get(f"{on}_all") or whole["metrics"].get(on)
    label = f"{on}_all_{p}" if f"{on}_all" in whole["metrics"] else f"{on}_{p}"
    if told is None:
        return label, None, None, f"this run has no {on}"
    value = metrics.real(told[p])
    least = statistics.needed(statistics.PERCENTILES[p])
    spread = told["ci95"].get(p)
    interval = (metrics.real(spread[0]) or 0.0, metrics.real(spread[1]) or math.inf) if spread else None
    return label, value, interval, f"n={told['n']}, needs {least}"


def conclude(facts: RunFacts, judged: Sequence[Judged]) -> tuple[str, list[str]]:
    """The verdict of a run and why: invalid, fail, unknown, pass, or measured (no objective was set)."""
    if not facts.valid:
        return "invalid", list(facts.reasons)
    failed = [one.words for one in judged if one.outcome == "fail"]
    unknown = [one.words for one in judged if one.outcome == "unknown"]
    if failed:
        return "fail", failed
    if unknown:
        return "unknown", unknown
    return ("pass", [one.words for one in judged]) if judged else ("measured", [])
