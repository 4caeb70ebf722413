"""What `dsctl bench` sees of a server whose schedule is known, and what that costs: one line for each load.

    python -m benchmarks.load_truth [--seconds 15] [--case 50x5 --case 200x20]

The stand-in server sends tokens at start + TTFT + k × ITL; errors are what the client saw minus that, so they hold the
server's own lateness too (told beside them). CPU is the worker's, per token event in the window.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from dsctl.bench import run
from dsctl.bench.mock import serving
from dsctl.bench.progress import Nobody
from dsctl.bench.selfcheck import quantile
from dsctl.bench.wish import Wish

CASES = ("1x20", "50x20", "200x20", "50x5", "200x5")
TTFT_MS = 200.0


def main() -> None:
    """Run every case and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--case", action="append", help="STREAMSxITL_MS")
    parser.add_argument("--workers", type=int, help="default: as needed")
    options = parser.parse_args()
    print(f"{'streams x ITL':>14} {'events/s':>9} {'TTFT err p50/p99':>17} {'gap err p50/p99':>16} "
          f"{'us/event':>9} {'lag p99':>8} {'server late':>11}  verdict")  # fmt: skip
    for case in options.case or CASES:
        streams, _, itl = case.partition("x")
        print(line(int(streams), float(itl), options.seconds, options.workers), flush=True)


def line(streams: int, itl_ms: float, seconds: int, workers: int | None) -> str:
    """One case, measured and written as a line (milliseconds)."""
    tokens = max(2, round(2000 / itl_ms))
    wish = Wish(
        concurrency=streams, duration=f"{seconds}s", warmup="3s", osl=str(tokens), isl="32", workers=workers, drain="5s"
    )
    with tempfile.TemporaryDirectory() as folder, serving(TTFT_MS, itl_ms) as server:
        done = run.measure(wish, run.Site(server.url, mock=server), Path(folder), Nobody())
    facts, window = done.facts, done.facts.window
    rows = [row for row in done.rows if row.status == "ok" and not row.warmup]
    ttft = sorted((row.t_first or 0) - (row.t_send or 0) - TTFT_MS / 1000 for row in rows)
    gaps = sorted(gap - itl_ms / 1000 for row in rows for gap in row.gaps)
    events = sum(window.start <= at < window.end for row in done.rows for at in row.arrivals())
    check, client = facts.self_check, facts.env["client"]
    cost = check.cpu * client["workers"] * window.seconds / max(1, events) * 1e6
    return (
        f"{streams:>8} x {itl_ms:g} {events / window.seconds:>9.0f} {errors(ttft):>17} {errors(gaps):>16} {cost:>9.1f} "
        f"{check.loop_lag_p99 * 1e3:>8.2f} {late(facts.env):>11}  {'; '.join(facts.reasons) or 'valid'} "
        f"({client['workers']} workers, {len(rows)} requests)"
    )


def errors(values: list[float]) -> str:
    """p50 and p99 in milliseconds."""
    return f"{quantile(values, 0.5) * 1e3:.2f}/{quantile(values, 0.99) * 1e3:.2f}"


def late(env: dict[str, Any]) -> str:
    """The stand-in's own lateness, p99 in milliseconds."""
    value = env["server"]["late_p99"]
    return "-" if value is None else f"{value * 1e3:.2f}"


if __name__ == "__main__":
    main()
