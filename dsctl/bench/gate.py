"""A finished run against objectives: pass, or the objectives that were missed, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsctl.base.errors import InvalidError, UsageError
from dsctl.bench import judge, slo
from dsctl.bench.judge import Judged
from dsctl.bench.runs import Run, require_valid
from dsctl.bench.slo import Objectives


@dataclass(frozen=True, slots=True)
class Gated:
    """A run and each objective's outcome."""

    run: Run
    told: dict[str, Any]  # run.json as it is with these objectives
    judged: tuple[Judged, ...]

    @property
    def failed(self) -> tuple[Judged, ...]:
        """The objectives that were missed."""
        return tuple(one for one in self.judged if one.outcome == "fail")

    @property
    def unsettled(self) -> tuple[Judged, ...]:
        """Objectives that pass, but could have passed by luck."""
        return tuple(one for one in self.judged if one.outcome == "pass" and not one.is_proven)


def gate(runs: Sequence[Run], objectives: Objectives | None) -> list[Gated]:
    """Each run against the objectives, or against those it was measured with when None is given.

    InvalidError for a run that is not valid or too short for an objective, UsageError when there is no objective.
    """
    require_valid(runs)
    return [_gate(run, objectives or _required(run)) for run in runs]


def _required(run: Run) -> Objectives:
    own = own_objectives(run)
    if own is None:
        raise UsageError(f"{run.path} was measured without objectives", hint="dsctl bench gate DIR --slo ttft=500ms")
    return own


def own_objectives(run: Run) -> Objectives | None:
    """The objectives a run was measured with; None when it had none."""
    told: dict[str, Any] = run.told.get("objectives") or {}
    names = {name: value for name, value in told.items() if name != "attainment"}
    if not names:
        return None
    bounds = tuple(
        slo.Bound(name, float(value), at_least=name in slo.FLOORS)
        for name, value in names.items()
        if name not in slo.PER_REQUEST
    )
    requests = {name: float(value) for name, value in names.items() if name in slo.PER_REQUEST}
    return Objectives(requests, float(told.get("attainment", 0.99)), bounds)


def _gate(run: Run, objectives: Objectives) -> Gated:
    told = judge.document(run.facts, run.rows, objectives)
    judged = tuple(judge.judge(told, objectives, run.facts.mode, run.rows, run.facts.window))
    unknown = [one.words for one in judged if one.outcome == "unknown"]
    if unknown:
        raise InvalidError(
            f"{run.path} cannot be judged by these objectives", why="\n".join(unknown), hint="measure longer"
        )
    return Gated(run, told, judged)
