"""How long the doctor reads a large log, and with how much memory: `python -m benchmarks.doctor_logs --gb 1`."""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK_LINES = 20_000
OOM = (
    "ERROR 10-05 {clock} [core.py:387] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 764.00 MiB. GPU 3"
    " has a total capacity of 79.10 GiB of which 442.88 MiB is free. Including non-PyTorch memory, this process has"
    " 78.60 GiB memory in use. Of the allocated memory 77.40 GiB is allocated by PyTorch, and 203.24 MiB is reserved"
    " by PyTorch but unallocated.\n"
)
# What a busy server writes, and how often: access lines, statistics, scheduling, chatter of libraries, warnings.
KINDS = (
    (40, 'INFO:     10.2.{a}.{b}:{port} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'),
    (20, "INFO 10-05 {clock} [loggers.py:116] Engine 000: Avg prompt throughput: {a}1.4 tokens/s, Avg generation "
         "throughput: {b}7.9 tokens/s, Running: {a} reqs, Waiting: 0 reqs, GPU KV cache usage: {b}.1%, Prefix cache "
         "hit rate: 4{a}.7%\n"),
    (12, "[2026-10-05 {clock} TP{rank}] Decode batch. #running-req: {a}, #token: {port}, token usage: 0.{b}, gen "
         "throughput (token/s): {a}2.31, #queue-req: 0\n"),
    (8, "INFO 10-05 {clock} [async_llm.py:261] Added request chatcmpl-{port}{a}{b}f0.\n"),
    (6, "{host}:1{port}:1{port} [{rank}] NCCL INFO Channel {b:02d}/0 : {rank}[{rank}] -> 0[0] via P2P/CUMEM\n"),
    (5, '10.2.{a}.{b} - - [05/Oct/2026:{clock} +0000] "POST /v1/completions HTTP/1.1" 200 {port} "-" "httpx/0.28"\n'),
    (4, "DEBUG 10-05 {clock} [scheduler.py:90] step {port}: {a} sequences, {b} new tokens, 0 preempted\n"),
    (3, '{{"ts": 17911{port}.25, "level": "info", "msg": "request finished", "id": "req-{port}", "ms": {a}{b}}}\n'),
    (1, "WARNING 10-05 {clock} [sampling_params.py:12] temperature {b} is below 0.01; using greedy decoding instead\n"),
    (1, "2026-10-05T{clock}Z stderr F (EngineCore_0 pid={port}) INFO waiting for {a} blocks took {b} ms, retrying\n"),
)  # fmt: skip


def write(path: Path, size: int, faults: int) -> int:
    """A log of about `size` bytes with `faults` out-of-memory errors spread over it; the same every time. Its lines."""
    made = random.Random(60)
    templates = [text for weight, text in KINDS for _ in range(weight)]
    rows = [_filled(made, made.choice(templates)) for _ in range(BLOCK_LINES)]
    block = "".join(rows).encode()
    rounds = max(1, size // len(block))
    with path.open("wb") as file:
        for number in range(rounds):
            file.write(block)
            for _ in range(faults * (number + 1) // rounds - faults * number // rounds):
                file.write(OOM.format(clock="09:00:00").encode())
    return rounds * BLOCK_LINES + faults


def _filled(made: random.Random, template: str) -> str:
    clock = ":".join(f"{made.randrange(most):02d}" for most in (24, 60, 60))
    return template.format(
        a=made.randrange(10, 250), b=made.randrange(10, 99), port=made.randrange(10_000, 60_000),
        rank=made.randrange(8), host=f"gpu-{made.randrange(4)}", clock=clock,
    )  # fmt: skip


def main() -> None:
    """Writes the log, reads it in a process of its own, prints what that took."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--gb", type=float, default=1.0)
    asked.add_argument("--faults", type=int, default=100)
    wish = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsctl-logs-") as place:
        path = Path(place) / "serve.log"
        lines = write(path, int(wish.gb * 1e9), wish.faults)
        # What was just written is in the page cache: the disk is not what is measured.
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "dsctl", "doctor", "--logs", str(path), "--json"],
            capture_output=True, check=False,
        )  # fmt: skip
        wall = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = [(f["rule"], f["count"]) for f in json.loads(done.stdout)["findings"]]
        size = path.stat().st_size / 1e9
    cpu = used.ru_utime + used.ru_stime
    print(f"{size:.2f} GB, {lines} lines: {wall:.1f} s wall, {cpu:.1f} s CPU ({cpu / size:.1f} s a GB), ", end="")
    print(f"{used.ru_maxrss / 1024:.0f} MB at most; found {found}")


if __name__ == "__main__":
    main()
