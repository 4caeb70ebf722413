"""Ground truth over a grid of loads, and the plain locustfile: longer than the gate allows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from dsctl.bench import locustfile_path, records, run
from dsctl.bench.crew import free_port
from dsctl.bench.mock import Mock, serving
from dsctl.bench.progress import Nobody
from dsctl.bench.records import Record
from dsctl.bench.selfcheck import quantile
from dsctl.bench.wish import Wish
from tests.dsctl.bench.scripted import ROOT, eventually
from tests.dsctl.bench.test_run import running

pytestmark = pytest.mark.long
ATTEMPTS = 2
TTFTS_MS = (100.0, 200.0, 500.0)  # of one server: who asks for n tokens gets number n mod 3
TOKENS = (15, 16, 17)
ERROR_S = 0.003


def measured(folder: Path, server: Mock, streams: int, workers: int | None) -> run.Ran:
    """A short closed load that asks for 15, 16 or 17 tokens at a time."""
    folder.mkdir()
    (folder / "lengths").write_text("\n".join(map(str, TOKENS)))
    wish = Wish(
        concurrency=streams, requests=max(21, 3 * streams), warmup="1500ms", osl=f"file:{folder / 'lengths'}", isl="32",
        workers=workers,
    )  # fmt: skip
    return run.measure(wish, run.Site(server.url, mock=server), folder, Nobody())


def assert_true(done: run.Ran, itl_ms: float) -> None:
    """Every median is the schedule's to 3 ms; to the first token the stand-in's own measured lateness comes on top."""
    rows = [row for row in done.rows if not row.warmup]
    assert all(row.status == "ok" and row.n_out in TOKENS and len(row.gaps) == row.chunks - 1 for row in rows)
    for ttft_ms in TTFTS_MS:
        found = sorted(row.t_first - row.t_send for row in of(rows, ttft_ms) if row.t_first and row.t_send)
        error = quantile(found, 0.5) - ttft_ms / 1000
        assert abs(error) < ERROR_S + done.facts.env["server"]["late_p99"], (ttft_ms, error)
    gaps = sorted(gap for row in rows for gap in row.gaps)
    assert abs(quantile(gaps, 0.5) - itl_ms / 1000) < ERROR_S


def of(rows: list[Record], ttft_ms: float) -> list[Record]:
    """The requests that were to wait so long."""
    return [row for row in rows if row.want_out is not None and TTFTS_MS[row.want_out % len(TTFTS_MS)] == ttft_ms]


@pytest.mark.parametrize(
    ("streams", "itl_ms", "workers"),
    [(1, 5, 1), (1, 20, 1), (50, 5, None), (50, 20, None), (200, 20, None), (50, 20, 2)],
)  # fmt: skip
def test_medians_are_the_truth(tmp_path: Path, streams: int, itl_ms: float, workers: int | None) -> None:
    """100, 200 and 500 ms to the first token and 5 or 20 ms between tokens are measured to 3 ms, up to 10 000 events/s.

    A run that calls itself invalid is repeated; two of them are a skip that says why.
    """
    reasons: list[str] = []
    with serving(TTFTS_MS, itl_ms) as server:
        for attempt in range(ATTEMPTS):
            done = measured(tmp_path / str(attempt), server, streams, workers)
            if done.facts.valid:
                assert_true(done, itl_ms)
                return
            reasons += done.facts.reasons
    pytest.skip(f"two runs in a row called themselves invalid: {'; '.join(reasons)}")


@pytest.mark.parametrize(("streams", "must_fail"), [(200, False), (500, True)])
def test_too_many_events_are_no_measurement(tmp_path: Path, streams: int, must_fail: bool) -> None:
    """100 000 events/s are more than the stand-in's one process can send in time, and the run says so. 40 000 are more
    than two busy cores can make and read: then it says so too, or its medians are true."""
    with serving(TTFTS_MS, 5) as server:
        done = measured(tmp_path / "run", server, streams, None)
    if done.facts.valid:
        assert not must_fail
        assert_true(done, 5)
    else:
        assert any(" late" in reason or "of a core" in reason for reason in done.facts.reasons)


def test_the_locustfile_stands_alone(tmp_path: Path) -> None:
    """`locust -f` without a plan looks at the server, loads it with its users, and leaves the exact rows."""
    with serving(20, 5) as server:
        done = subprocess.run(
            [
                sys.executable, "-m", "locust", "-f", str(locustfile_path()), "--headless", "-u", "3", "-r", "3",
                "-t", "4s", "--host", server.url,
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "dsctl-bench" / "ui").iterdir()
    rows = list(records.read(folder))
    assert sum(row.status == "ok" for row in rows) >= 3
    assert {row.status for row in rows} <= {"ok", "censored"}
    assert "TPOT" in done.stdout + done.stderr


def test_the_page_is_for_this_machine_only(tmp_path: Path) -> None:
    """`dsctl bench ui` listens on the loopback alone; users started on its page leave exact rows."""
    port = free_port()
    with serving(20, 5) as server, running(tmp_path, "ui", "--url", server.url, "--port", str(port)) as process:
        page = f"http://127.0.0.1:{port}"
        eventually("the page", lambda: _answers(page))
        listening = {one.laddr.ip for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        assert httpx.post(f"{page}/swarm", data={"user_count": "3", "spawn_rate": "3"}).status_code == 200
        eventually("rows", lambda: any(path.stat().st_size for path in tmp_path.rglob("rows-*.jsonl")))
        assert 200 in [httpx.request(method, f"{page}/stop").status_code for method in ("POST", "GET")]  # by version
        eventually("the run's file", lambda: list(tmp_path.rglob(records.ROWS)))
    (file,) = tmp_path.rglob(records.ROWS)
    assert {row.status for row in records.read(file)} <= {"ok", "censored"}


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False
