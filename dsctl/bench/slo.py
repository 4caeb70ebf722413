"""What a request, or a run, has to reach: objectives as they are written on the command line, and the known presets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from dsctl.base.errors import UsageError

# Limits of public inference benchmarks for interactive service, from second-hand sources: like them, not them.
PRESETS: dict[str, str] = {
    "mlperf-like-llama2-70b": "ttft=2s,tpot=200ms",
    "mlperf-like-llama2-70b-interactive": "ttft=450ms,tpot=40ms",
    "mlperf-like-llama3.1-8b": "ttft=2s,tpot=100ms",
    "mlperf-like-llama3.1-8b-interactive": "ttft=500ms,tpot=30ms",
    "mlperf-like-llama3.1-405b": "ttft=6s,tpot=175ms",
    "mlperf-like-llama3.1-405b-interactive": "ttft=4.5s,tpot=80ms",
    "mlperf-like-deepseek-r1": "ttft=2s,tpot=80ms",
    "mlperf-like-deepseek-r1-interactive": "ttft=1.5s,tpot=15ms",
}
PRESET_ATTAINMENT = 0.99

PER_REQUEST = ("ttft", "tpot", "e2e")
RATES = ("error_rate", "attainment")  # shares of a run: at most, at least
FLOORS = ("goodput", "output_tokens_per_s", "requests_per_s")  # of a run, at least
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "": 1.0}
_NUMBER = re.compile(r"^(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([a-zµ]*)$")
_PERCENTILE = re.compile(r"^(ttft|ttft_sched|tpot|itl|icl|e2e|e2e_sched)_(p50|p90|p95|p99|p999)$")
_EXAMPLE = "ttft=500ms,tpot=50ms,e2e=10s"


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit on a whole run: `name` is a percentile (ttft_p99), a share (error_rate) or a rate (goodput)."""

    name: str
    limit: float  # seconds, a share, or per second
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Objectives:
    """Limits on each request in seconds, the share of requests that must meet them all, and limits on the run."""

    requests: dict[str, float]
    attainment: float = 0.99
    bounds: tuple[Bound, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.requests or self.bounds)

    def as_json(self) -> dict[str, object]:
        """Names and limits, times in seconds."""
        told: dict[str, object] = {**self.requests, **{bound.name: bound.limit for bound in self.bounds}}
        return {**told, "attainment": self.attainment} if self.requests else told


def parse(text: str, attainment: float | None = None) -> Objectives:
    """`ttft=500ms,tpot=50ms` (a request), `ttft_p99=1s,error_rate=1%,goodput=5` (the run); UsageError for the rest."""
    requests: dict[str, float] = {}
    bounds: list[Bound] = []
    share = attainment
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"--slo: {part!r} has no limit", hint=f"--slo {_EXAMPLE}")
        if name in requests or any(bound.name == name for bound in bounds):
            raise UsageError(f"--slo: {name} is there twice", hint=f"--slo {_EXAMPLE}")
        if name in PER_REQUEST:
            requests[name] = duration(value, f"--slo {name}")
        elif name == "attainment":
            share = fraction(value, "--slo attainment")
        elif _PERCENTILE.match(name):
            bounds.append(Bound(name, duration(value, f"--slo {name}")))
        elif name == "error_rate":
            bounds.append(Bound(name, fraction(value, "--slo error_rate")))
        elif name in FLOORS:
            bounds.append(Bound(name, _plain(value, f"--slo {name}"), at_least=True))
        else:
            raise _unknown(name)
    if not requests and not bounds:
        raise UsageError("--slo names no objective", hint=f"--slo {_EXAMPLE}")
    return Objectives(requests, _share(share), tuple(bounds))


def preset(name: str, attainment: float | None = None) -> Objectives:
    """The objectives of a preset; UsageError naming the nearest one."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1, 0.3)
        raise UsageError(
            f"--slo-preset: there is no {name!r}", hint=f"--slo-preset {near[0] if near else next(iter(PRESETS))}"
        )
    return parse(PRESETS[name], PRESET_ATTAINMENT if attainment is None else attainment)


def wished(text: str | None, preset_name: str | None, attainment: float | None = None) -> Objectives | None:
    """The objectives of `--slo` over those of `--slo-preset`; None when neither is given."""
    base = preset(preset_name, attainment) if preset_name else None
    if not text:
        return base
    own = parse(text, attainment if base is None else (attainment or base.attainment))
    if base is None:
        return own
    return Objectives({**base.requests, **own.requests}, own.attainment, own.bounds)


def duration(text: str, where: str) -> float:
    """`500ms`, `2s`, `1.5` (seconds) as seconds, above zero; UsageError naming `where`."""
    found = _NUMBER.match(text.strip())
    if not found or found[2] not in _UNITS or not 0 < (value := float(found[1]) * _UNITS[found[2]]) < math.inf:
        raise UsageError(f"{where}: {text!r} is no duration", hint="a number with us, ms, s or min: 500ms")
    return value


def fraction(text: str, where: str) -> float:
    """`1%` or `0.01` as a share between 0 and 1; UsageError naming `where`."""
    body = text.strip()
    scale = 0.01 if body.endswith("%") else 1.0
    value = _plain(body.removesuffix("%").strip(), where) * scale
    if value > 1:
        raise UsageError(f"{where}: {text!r} is more than everything", hint="a share: 1% or 0.01")
    return value


def _plain(text: str, where: str) -> float:
    found = _NUMBER.match(text.strip().removesuffix("/s"))
    if not found or found[2] or not math.isfinite(float(found[1])):
        raise UsageError(f"{where}: {text!r} is no number", hint="a plain number: 5 or 0.99")
    return float(found[1])


def _share(value: float | None) -> float:
    share = 0.99 if value is None else value
    if not 0 < share <= 1:
        raise UsageError(f"--attainment: {share} is no share", hint="--attainment 0.99")
    return share


def _unknown(name: str) -> UsageError:
    known = (*PER_REQUEST, *(f"{metric}_p99" for metric in PER_REQUEST), "error_rate", *FLOORS)
    near = get_close_matches(name, known, 1, 0.4)
    return UsageError(f"--slo: there is no objective {name!r}", hint=f"--slo {near[0] if near else 'ttft'}=…")
