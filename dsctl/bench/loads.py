"""When requests are sent: the shapes of load, its stages, and one seeded schedule that all workers share."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec

from dsctl.base.errors import UsageError

Kind = Literal["closed", "constant", "poisson", "gamma", "burst", "trace"]
KINDS = ("closed", "constant", "poisson", "gamma:SHAPE", "burst:SIZE", "trace:FILE")
ENDLESS = 1e9  # seconds of a level that ends by its number of requests
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}


class Level(msgspec.Struct, frozen=True):
    """One stage: so many users (closed) or requests per second (open) for so long."""

    target: float
    seconds: float


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The whole load: warm-up at the first level, then the levels one after the other, then the drain."""

    kind: Kind
    levels: list[Level]
    warmup: float = 0.0
    drain: float = 60.0
    shape: float = 1.0  # gamma: its shape (1 is Poisson, above it is steadier, below burstier); burst: its size
    file: str | None = None  # trace
    requests: int | None = None  # end after so many requests of the window

    @property
    def is_open(self) -> bool:
        """Arrivals come on a schedule, whatever comes back."""
        return self.kind != "closed"

    @property
    def end(self) -> float:
        """Seconds after the start when arrivals end (ENDLESS or more: by the number of requests)."""
        return self.warmup + sum(level.seconds for level in self.levels)

    @property
    def most_workers(self) -> int:
        """Workers that can have something to do: a worker without a user of a closed load would wait for ever."""
        return 1_000_000 if self.is_open else max(1, round(min(level.target for level in self.levels)))

    def spans(self) -> list[tuple[float, float, float]]:
        """(start, end, target) of each stage; the first one begins with the warm-up."""
        found: list[tuple[float, float, float]] = []
        start, until = 0.0, self.warmup
        for level in self.levels:
            until += level.seconds
            found.append((start, until, level.target))
            start = until
        return found

    def target_at(self, t: float) -> tuple[int, float]:
        """(stage, target) at a time; the last stage goes on for ever."""
        spans = self.spans()
        for stage, (_, until, target) in enumerate(spans):
            if t < until:
                return stage, target
        return len(spans) - 1, spans[-1][2]


class Arrival(NamedTuple):
    """One request's place in the schedule: its number over all workers, seconds after the start, its stage."""

    number: int
    at: float
    stage: int


def parse_seconds(text: str, what: str = "a duration") -> float:
    """`500ms`, `30s`, `2m`, `1h`, `10`; UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{what} cannot be {text!r}", hint="write it as 500ms, 30s, 2m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def parse_kind(text: str) -> tuple[Kind, float, str | None]:
    """(kind, shape, file) of `--load`; UsageError naming the kinds there are."""
    kind, _, rest = text.partition(":")
    problem = UsageError(f"--load cannot be {text!r}", hint=f"one of {', '.join(KINDS)}")
    if kind == "trace":
        if not rest:
            raise problem
        return "trace", 1.0, rest
    if kind not in ("closed", "constant", "poisson", "gamma", "burst") or (rest and kind not in ("gamma", "burst")):
        raise problem
    try:
        shape = float(rest) if rest else {"gamma": 0.5, "burst": 10.0}.get(kind, 1.0)
    except ValueError:
        raise problem from None
    if not 0.01 <= shape <= 1e6:
        raise problem
    return cast("Kind", kind), shape, None


def parse_stages(text: str) -> list[Level]:
    """`5@30s,10@60s`, or a file of such stages, one a line; UsageError naming the part that is wrong."""
    levels: list[Level] = []
    if "@" not in text:
        text = _stages_of(Path(text))
    for part in text.split(","):
        target, at, length = part.partition("@")
        try:
            level = Level(float(target), parse_seconds(length, "the length of a stage"))
        except ValueError:
            at = ""
            level = Level(0, 0)
        if not at or level.target <= 0 or level.seconds <= 0:
            raise UsageError(f"--stages has {part!r}, which is no stage", hint="--stages 5@30s,10@60s")
        levels.append(level)
    return levels


def _stages_of(path: Path) -> str:
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        hint = "--stages 5@30s,10@60s, or a file with a stage a line"
        raise UsageError(
            f"--stages has {str(path)!r}, which is no stage and no file", why=str(error), hint=hint
        ) from error
    return ",".join(filter(None, lines))


def arrivals(load: Load, seed: int, trace: Sequence[float] = ()) -> Iterator[Arrival]:
    """The open-loop schedule: the same for the same load and seed, however many workers share it."""
    measured = 0
    for number, (at, stage) in enumerate(_times(load, seed, trace)):
        measured += at >= load.warmup
        if load.requests is not None and measured > load.requests:
            return
        yield Arrival(number, at, stage)


def _times(load: Load, seed: int, trace: Sequence[float]) -> Iterator[tuple[float, int]]:
    if load.kind == "trace":
        yield from ((at, 0) for at in trace if at < load.end)
        return
    rng = random.Random(f"{seed}/arrivals")
    for stage, (start, until, rate) in enumerate(load.spans()):
        for at in _within(load, rng, start, rate):
            if at >= until:
                break
            yield at, stage


def _within(load: Load, rng: random.Random, start: float, rate: float) -> Iterator[float]:
    """Times from `start` on at a mean `rate` per second, for ever."""
    if load.kind in ("constant", "burst"):
        size = max(1, round(load.shape)) if load.kind == "burst" else 1
        number = 0
        while True:
            yield start + (number // size) * size / rate
            number += 1
    at = start
    while True:
        at += rng.expovariate(rate) if load.kind == "poisson" else rng.gammavariate(load.shape, 1 / (load.shape * rate))
        yield at


def share(schedule: Iterator[Arrival], worker: int, workers: int) -> Iterator[Arrival]:
    """What one worker of `workers` sends: every arrival is somebody's, none is two workers'."""
    return (arrival for arrival in schedule if arrival.number % workers == worker)


def schedule_sha256(load: Load, seed: int, trace: Sequence[float] = (), most: int = 1_000_000) -> str:
    """A fingerprint of when what is sent: of every arrival (open), or of the stages (closed)."""
    digest = sha256(msgspec.json.encode([load.kind, load.warmup, load.requests, load.levels]))
    if load.is_open:
        for arrival in arrivals(load, seed, trace):
            digest.update(f"{arrival.number} {arrival.at:.9f} {arrival.stage} {arrival.at < load.warmup}\n".encode())
            if arrival.number >= most:
                break
    return digest.hexdigest()
