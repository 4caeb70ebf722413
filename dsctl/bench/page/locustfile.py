"""The same load as a plain locustfile: `locust -f …/dsctl/bench/page/locustfile.py --host URL`, or `dsctl bench ui`.

Users are set in locust's web page; charts there show TTFT, TPOT and whole answers. The exact rows lie in the folder
named by DSCTL_BENCH_FOLDER (default: dsctl-bench/ui), which may hold a plan.json; locust's percentiles are coarse.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events

from dsctl.bench import plan as plans
from dsctl.bench import records
from dsctl.bench.duty import Duty, Place
from dsctl.bench.loads import ENDLESS, Level, Load
from dsctl.bench.plan import Plan
from dsctl.bench.preflight import Look
from dsctl.bench.records import FAILED, Record
from dsctl.bench.run import gather
from dsctl.bench.users import ClosedUser
from dsctl.bench.wish import Wish, workload_of

MOST_WORKERS = 64
FOLDER = Path(os.environ.get("DSCTL_BENCH_FOLDER", "dsctl-bench/ui"))
PLAN = FOLDER / "plan.json"
LISTEN: Any = events


class BenchUser(ClosedUser):
    """Asks, waits for the answer, asks again."""

    abstract = False
    host = plans.load(PLAN).target.url if PLAN.is_file() else None


def _plan(host: str) -> Plan:
    """The folder's plan, else the defaults after a look at the server."""
    if PLAN.is_file():
        return plans.load(PLAN)
    wish = Wish(url=host, api_key_env="DSCTL_API_KEY" if os.environ.get("DSCTL_API_KEY") else None)
    with Look(wish, host) as look:
        return Plan(target=look.target(), load=endless(), workload=workload_of(wish, []))


def endless() -> Load:
    """As many users as the page says, until it says stop."""
    return Load(kind="closed", levels=[Level(1, ENDLESS)])


@LISTEN.test_start.add_listener
def _started(environment: Any, **_: Any) -> None:
    """A new run: its own folder, its own rows."""
    if type(environment.runner).__name__ == "MasterRunner":
        return
    worker = max(0, int(getattr(environment.runner, "worker_index", 0)))
    folder = FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{worker}"
    folder.mkdir(parents=True, exist_ok=True)
    duty = Duty(_plan(environment.host), Place(worker, MOST_WORKERS, folder))
    duty.on_record = lambda record: _show(environment, record)
    duty.is_telling = False
    BenchUser.duty = duty
    duty.begin(time.perf_counter())
    gevent.spawn(duty.watch)


@LISTEN.test_stop.add_listener
def _stopped(environment: Any, **_: Any) -> None:
    """Keep the rows."""
    duty: Duty | None = getattr(BenchUser, "duty", None)
    if duty is not None and type(environment.runner).__name__ != "MasterRunner":
        duty.close()
        folder = duty.place.folder
        records.write(folder / records.ROWS, gather(folder))
        for used in folder.glob("rows-*.jsonl"):
            used.unlink()


def _show(environment: Any, record: Record) -> None:
    """One request on locust's charts."""
    if record.t_send is None:
        return
    failure = RuntimeError(f"{record.status}: {record.error}") if record.status in FAILED else None
    for name, end in (("TTFT", record.t_first), ("answer", record.t_close)):
        if end is not None:
            environment.events.request.fire(
                request_type="SSE", name=name, response_time=(end - record.t_send) * 1000,
                response_length=record.chunks,
                exception=failure if name == "answer" else None, context={},
            )  # fmt: skip
    if record.gaps and not failure:
        tpot = sum(record.gaps) / len(record.gaps)
        environment.events.request.fire(
            request_type="SSE", name="TPOT", response_time=tpot * 1000, response_length=0, exception=None, context={}
        )
