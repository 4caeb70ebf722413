"""Prints how long a core takes from the start of its process to its first token, step by step, with packed weights."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("interpreter", "imports", "load", "first token")


def child(model: str, quantization: str) -> None:
    """What a core does, with the time of each part on the clock that all processes share."""
    stamps = [time.monotonic()]
    from engine.core.boot import boot
    from engine.spec.config import EngineConfig
    from engine.wire.messages import Sampling, Start, Submit

    stamps.append(time.monotonic())
    booted = boot(Start(EngineConfig(model, quantization=quantization, max_model_len=2048), epoch=1))
    stamps.append(time.monotonic())
    booted.scheduler.add(Submit(1, list(range(2, 34)), Sampling(seed=1, max_tokens=1, temperature=0.0)))
    plan = booted.scheduler.schedule()
    [outcome] = booted.runner.run(plan)
    stamps.append(time.monotonic())
    ready = booted.ready
    print(json.dumps({"stamps": stamps, "token": outcome.token, "exact": ready.exact, "load_s": ready.load_s}))


def run(model: Path, quantization: str) -> tuple[list[float], dict[str, object]]:
    """Seconds of each part of one start."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.cold_start", "--child", "--model", str(model), quantization]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    stamps = [began, *said["stamps"]]
    return [last - first for first, last in itertools.pairwise(stamps)], said


def main() -> None:
    """The best of some starts; the first one, which may have to pack the weights, does not count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quantization", nargs="?", default="int8")
    parser.add_argument("--model", type=Path, help="a checkpoint; default: the 904 M shape, made once")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(str(args.model), args.quantization)
    from benchmarks.model904 import checkpoint

    model = args.model or checkpoint()
    run(model, args.quantization)
    starts = [run(model, args.quantization) for _ in range(args.repeat)]
    parts, said = min(starts, key=lambda start: sum(start[0]))
    print(f"{args.quantization}: process start to first token {sum(parts):.2f} s, exact {said['exact']}")
    print("  " + ", ".join(f"{name} {took:.2f} s" for name, took in zip(PARTS, parts, strict=True)))
    print(f"  without imports {sum(parts) - parts[1]:.2f} s")
    return None


if __name__ == "__main__":
    main()
