"""How long a plan will take: each wait by what the like of it took before, copies that load together counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from dsctl.base.fleetstep import (
    AwaitReady,
    Canary,
    Drain,
    FetchImage,
    FleetAction,
    FleetStep,
    PullWeights,
    RunContainer,
    Soak,
    SpreadWeights,
)
from dsctl.base.missing import Missing
from dsctl.planning.spreading import DEFAULT_RATE, duration

LATEST = 5  # remembered times that count
ACTION_S = 1.0  # of anything nothing is remembered about: a call or two over the network


def eta(steps: Sequence[FleetStep], loads: Mapping[str, Sequence[float]]) -> float | Missing:
    """Seconds; Missing when a load is awaited and none of this model was ever seen.

    `loads`: times by what they were of, oldest first: `load MODEL`, `drain`, `fetch`, or the kind of a step.
    """
    now = 0.0
    started: dict[str, float] = {}
    for step in steps:
        each = usual(loads, type(step.action).__name__, ACTION_S)
        match step.action:
            case RunContainer(spec):
                now += each
                started[spec.name] = now
            case AwaitReady(container, _, _, model) if model:
                took = usual(loads, f"load {model}", -1.0)
                if took < 0:
                    return Missing(f"no load of {model} was seen yet")
                now = max(now + each, started.get(container, now) + took)
            case _:
                now += _alone(step.action, loads, each)
    return now


def _alone(action: FleetAction, loads: Mapping[str, Sequence[float]], each: float) -> float:
    """Of an action that nothing else runs beside; `each` is what one of its kind took before."""
    match action:
        case Canary(seconds=stand_s):
            return usual(loads, "Canary", stand_s + each)
        case Soak(_, soak_s):
            return usual(loads, "Soak", soak_s + each)
        case Drain():
            return usual(loads, "drain", each)
        case FetchImage():
            return usual(loads, "fetch", 10 * ACTION_S)
        case SpreadWeights():
            return duration(action, 1e9 / usual(loads, "weights", 1e9 / DEFAULT_RATE))
        case PullWeights(cargo):
            return cargo.size / (cargo.rate or DEFAULT_RATE)
        case _:
            return each


def usual(loads: Mapping[str, Sequence[float]], what: str, default: float) -> float:
    """The median of the latest times of that kind."""
    times = list(loads.get(what, ()))[-LATEST:]
    return median(times) if times else default
