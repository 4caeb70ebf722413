"""Records and facts made by hand or by a seeded generator, for tests that need runs without running any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsctl.bench import judge, records
from dsctl.bench.records import Record, RunFacts, SelfCheck, Stage, Window
from dsctl.bench.slo import Objectives


def record(number: int, at: float, *, ttft: float = 0.2, itl: Sequence[float] = (0.02, 0.03), **more: Any) -> Record:
    """A request that was sent 10 ms late, whose first token took `ttft`, with one token an event."""
    first = at + 0.01 + ttft
    last = first + sum(itl)
    told: dict[str, Any] = {
        "id": number, "worker": 0, "status": "ok", "http": 200, "finish": "length", "t_intended": at,
        "t_send": at + 0.01, "t_headers": first - 0.001, "t_first": first, "t_content": first, "t_last": last,
        "t_close": last + 0.001, "n_in": 10, "n_out": 1 + len(itl), "chunks": 1 + len(itl), "gaps": list(itl),
    }  # fmt: skip
    return Record(**(told | more))


def failure(number: int, at: float, status: str = "http_error", **more: Any) -> Record:
    """A request that came to nothing."""
    told: dict[str, Any] = {"id": number, "worker": 0, "status": status, "t_intended": at, "t_send": at + 0.01}
    return Record(**(told | {"t_close": at + 0.05} | more))


def facts(**more: Any) -> RunFacts:
    """A valid run of one minute in open loop."""
    check = SelfCheck(
        loop_lag_p99=0.001, loop_lag_max=0.002, cpu=0.2, send_lag_p99=0.001, send_lag_limit=0.01, target_rate=10.0,
        achieved_rate=10.0, samples=600, server_restarts=0, workers_lost=0,
    )  # fmt: skip
    told: dict[str, Any] = {
        "started_at": "2026-01-01T00:00:00Z", "mode": "open", "request_set_sha256": "aa", "schedule_sha256": "bb",
        "config": {"url": "http://127.0.0.1:1", "model": "m", "load": "poisson", "rate": 10.0, "isl": "512", "seed": 1},
        "env": {"cores": 2}, "window": Window(0.0, 60.0), "stages": [Stage(0, 10.0, 0.0, 60.0)], "self_check": check,
        "valid": True, "reasons": [],
    }  # fmt: skip
    return RunFacts(**(told | more))


def lognormal(
    rng: np.random.Generator, n: int, *, factor: float = 1.0, cv: float = 0.2, tokens: int = 8
) -> list[Record]:
    """`n` requests whose mean gap a request is lognormal around 20 ms × factor with that coefficient of variation."""
    sigma = float(np.sqrt(np.log1p(cv**2)))
    pace = 0.02 * factor * np.exp(rng.normal(0.0, sigma, n))
    first = 0.2 * np.exp(rng.normal(0.0, sigma, n))
    times = np.linspace(0.0, 59.9, n)
    return [
        record(i, float(times[i]), ttft=float(first[i]), itl=[float(pace[i])] * (tokens - 1)) for i in range(n)
    ]  # fmt: skip


def write(
    directory: Path, rows: Sequence[Record], told: RunFacts | None = None, objectives: Objectives | None = None
) -> Path:
    """A run's directory as `dsctl bench run` leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    records.write(directory / records.ROWS, rows)
    records.write_run(directory, judge.document(told or facts(), rows, objectives))
    return directory
