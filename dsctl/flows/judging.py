"""`dsctl bench compare|gate|report`: read the runs, judge them, write what belongs beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy comes with them, and `dsctl --help` does without
    from dsctl.bench.compare import Comparison
    from dsctl.bench.gate import Gated
    from dsctl.bench.slo import Objectives


@dataclass(frozen=True, slots=True)
class Comparing:
    """What `dsctl bench compare` was asked."""

    a: Path
    b: Path
    max_regression: str | None = None
    alpha: float = 0.01
    across: frozenset[str] = frozenset()
    slo: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """A run, its run.json with the objectives asked for, and where its page is."""

    path: Path
    told: dict[str, Any]
    page: Path


def compare(wish: Comparing) -> Comparison:
    """B against A; IncomparableError when they measured different things, InvalidError when one proves nothing."""
    from dsctl.bench import compare as comparing
    from dsctl.bench import runs, slo

    gates = comparing.limits(wish.max_regression) if wish.max_regression else None
    objectives = slo.parse(wish.slo) if wish.slo else None
    a, b = runs.load_all(wish.a), runs.load_all(wish.b)
    runs.require_valid((*a, *b))
    runs.require_comparable(a, b, wish.across)
    return comparing.compare(a, b, gates=gates, alpha=wish.alpha, objectives=objectives)


def comparison_json(wish: Comparing, found: Comparison) -> dict[str, Any]:
    """A comparison as one object."""
    from dsctl.bench import summary

    return {
        "a": str(wish.a), "b": str(wish.b), "alpha": found.alpha, "conclusion": summary.conclusion(found),
        "metrics": [effect.as_json() for effect in found.effects],
        "regressions": [effect.name for effect in found.regressions],
        "undecided": [effect.name for effect in found.undecided], "notes": list(found.notes),
    }  # fmt: skip


def gate(path: Path, objectives: Objectives | None) -> list[Gated]:
    """Every run of a directory against the objectives, or against its own."""
    from dsctl.bench import gate as gating
    from dsctl.bench import runs

    return gating.gate(runs.load_all(path), objectives)


def gate_json(found: list[Gated]) -> dict[str, Any]:
    """The outcome of a gate as one object."""
    return {
        "verdict": "fail" if any(one.failed for one in found) else "pass",
        "failed": sorted({missed.name for one in found for missed in one.failed}),
        "runs": [{"path": str(one.run.path), "slo": [judged.as_json() for judged in one.judged]} for one in found],
    }


def gate_lines(found: list[Gated]) -> list[str]:
    """The outcome of a gate for people: the failing objective by name first."""
    lines: list[str] = []
    for one in found:
        missed = ", ".join(judged.name for judged in one.failed)
        lines.append(f"{'FAIL' if missed else 'PASS'}  {one.run.path}{f': {missed}' if missed else ''}")
        lines += [f"  {judged.outcome}  {judged.words}" for judged in one.judged]
    return lines


def report(path: Path, objectives: Objectives | None, page: Path | None = None) -> list[Reported]:
    """Writes the page of every run of a directory; without objectives those of the run are kept."""
    from dsctl.base.errors import UsageError
    from dsctl.bench import gate as gating
    from dsctl.bench import judge, report, runs

    found = runs.load_all(path)
    if page is not None and len(found) > 1:
        raise UsageError(f"{path} holds {len(found)} runs and --html one file", hint="leave --html out")
    reported: list[Reported] = []
    for run in found:
        told = judge.document(run.facts, run.rows, objectives or gating.own_objectives(run))
        target = page or run.path / "report.html"
        report.write(target, run, told)
        reported.append(Reported(run.path, told, target))
    return reported
