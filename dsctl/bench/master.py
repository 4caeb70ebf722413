"""`python -m dsctl.bench.master`: locust's master for several workers; it spreads the users and gives the start."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from time import perf_counter

import gevent
import gevent.socket
from locust.env import Environment

from dsctl.bench import plan as plans
from dsctl.bench.users import Shape, users_of
from dsctl.bench.worker import LEAD_S, START

HELLO_S = 60.0


def main() -> int:
    """Wait for the workers, start them together, end when stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m dsctl.bench.master", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)  # locust warns of every fast ramp
    plan = plans.load(options.folder / "plan.json")
    environment = Environment(
        user_classes=[users_of(plan, None)], host=plan.target.url, stop_timeout=plan.target.timeout
    )
    environment.shape_class = Shape(plan, options.workers)
    runner = environment.create_master_runner("127.0.0.1", options.port)
    deadline = perf_counter() + HELLO_S
    while len(runner.clients.ready) < options.workers:
        if perf_counter() > deadline:
            sys.stderr.write(f"only {len(runner.clients.ready)} of {options.workers} workers came\n")
            return 1
        gevent.sleep(0.02)
    runner.send_message(START, {"start": perf_counter() + LEAD_S})
    runner.start_shape()
    while True:
        gevent.socket.wait_read(0)
        if not os.read(0, 4096):
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
