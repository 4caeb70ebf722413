"""`python -m dsctl.bench.worker`: one process that makes load; alone, or one of several under a locust master.

It talks to its parent by lines of JSON on stdout (dsctl/bench/progress.py) and ends early when stdin says `stop` or
ends.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import gevent.socket
import msgspec
from locust.env import Environment

from dsctl.base.urgency import be_prompt
from dsctl.bench import plan as plans
from dsctl.bench.duty import Duty, Place, tell
from dsctl.bench.progress import Began
from dsctl.bench.users import Shape, users_of

START = "dsctl_start"  # the master's message with the common start
LEAD_S = 0.3  # from the decision to start to the start: time enough for the message


def main() -> int:
    """Work until the run is over."""
    parser = argparse.ArgumentParser(prog="python -m dsctl.bench.worker", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="plan.json is read from it, rows are written to it")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--master-port", type=int, help="the master's; without one this worker is the only one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)  # locust warns of every fast ramp
    open_many_files()
    be_prompt()  # a client beside the server must not wait for its threads
    plan = plans.load(options.folder / "plan.json")
    duty = Duty(plan, Place(options.worker, options.workers, options.folder))
    environment = Environment(
        user_classes=[users_of(plan, duty)], host=plan.target.url, stop_timeout=plan.target.timeout
    )
    gevent.spawn(_obey, duty)
    gevent.spawn(duty.watch)
    spawn: Any = gevent.spawn
    keeper = spawn(duty.keep)
    if options.master_port is None:
        _alone(environment, plan, duty)
    else:
        _under_master(environment, duty, options.master_port)
    keeper.join()
    sys.stdout.flush()
    os._exit(0 if keeper.successful() else 1)  # locust's greenlets and its session have nothing left to say


def _begin(duty: Duty, start: float) -> None:
    duty.begin(start)
    tell(msgspec.json.encode(Began(duty.place.worker, start)))


def _alone(environment: Environment, plan: plans.Plan, duty: Duty) -> None:
    environment.shape_class = Shape(plan, 1)
    runner = environment.create_local_runner()
    runner.start_shape()
    _begin(duty, perf_counter() + LEAD_S)


def _under_master(environment: Environment, duty: Duty, port: int) -> None:
    runner: Any = environment.create_worker_runner("127.0.0.1", port)

    def started(msg: Any, **_kwargs: Any) -> None:
        _begin(duty, float(msg.data["start"]))

    runner.register_message(START, started)


def _obey(duty: Duty) -> None:
    """Ends the run when the parent says so, or is gone."""
    while True:
        gevent.socket.wait_read(0)
        with contextlib.suppress(OSError):
            if os.read(0, 4096):
                duty.stop()
                return
        duty.stop()
        gevent.sleep(30)
        os._exit(1)


def open_many_files() -> None:
    """As many connections as the system lets this user have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
