"""What a measurement leaves: plain values that are written as JSON and read back to be shown or merged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

SCHEMA_VERSION = 1
DISTURBED = 0.05


class Probe(msgspec.Struct, frozen=True):
    """What the machine gave beside a measurement: bytes per second of reading, operations per second of products."""

    read: float
    int8: float
    bf16: float


class Spread(msgspec.Struct, frozen=True):
    """The samples of one figure, which is their median."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.samples)


class Http(msgspec.Struct, frozen=True):
    """One load on a server: `clients` requests at once, in several rounds."""

    clients: int
    tokens_per_s: Spread
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    failed: int
    different: float  # different texts among the tokens of all answers: how much a greedy answer repeats itself


class Measured(msgspec.Struct, frozen=True):
    """One engine in one run: tokens per second of decode by batch size, of prefill by "prompts×tokens"."""

    name: str
    weights: str
    run: str  # results of the same run may be divided by one another
    before: Probe
    after: Probe
    decode: dict[int, Spread] = {}
    prefill: dict[str, Spread] = {}
    http: tuple[Http, ...] = ()
    load_s: float | None = None  # process start to the first answer over HTTP
    others: float = 0.0  # share of the processors that other processes took meanwhile
    pss: int | None = None  # most bytes of the server's processes seen between loads
    notes: tuple[str, ...] = ()

    @property
    def is_disturbed(self) -> bool:
        """Something else ran: the figures say little about the engine, and their ratios less."""
        return self.others > DISTURBED

    @property
    def probe(self) -> Probe:
        """The better of both probes: a limit that is not too low because something else ran for a moment."""
        pairs = zip(*(msgspec.structs.astuple(p) for p in (self.before, self.after)), strict=True)
        return Probe(*(max(pair) for pair in pairs))


class Report(msgspec.Struct, frozen=True):
    """A file of results."""

    machine: dict[str, str]
    distinct: dict[int, tuple[float, ...]]  # rows → distinct experts of each MoE layer and step of this checkpoint
    engines: tuple[Measured, ...]
    schema_version: int = SCHEMA_VERSION


def write(path: Path, report: Report) -> None:
    """As indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def read(path: Path) -> Report:
    """Raises ValueError for a file of another schema."""
    report = msgspec.json.decode(path.read_bytes(), type=Report)
    if report.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema {report.schema_version}, this reads {SCHEMA_VERSION}; measure again")
    return report


def merge(reports: Sequence[Report]) -> Report:
    """All engines of several files, each with the probes of its own run. Raises ValueError for different machines."""
    first = reports[0]
    for report in reports[1:]:
        if report.machine.get("cpu") != first.machine.get("cpu"):
            raise ValueError(f"results of {report.machine.get('cpu')} and {first.machine.get('cpu')} are not one table")
    distinct = {rows: values for report in reports for rows, values in report.distinct.items()}
    return Report(first.machine, distinct, tuple(engine for report in reports for engine in report.engines))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
