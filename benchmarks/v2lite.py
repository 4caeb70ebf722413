"""Prints what serving DeepSeek-V2-Lite's shape takes and gives: 15.7 B dummy weights, routed experts int4, else int8.

The server makes the weights itself, tensor by tensor, already in the kernels' formats; nothing of them is on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp

from benchmarks.engine_peers.client import Answer, ask, random_prompt
from benchmarks.engine_peers.engines import ROOT
from benchmarks.engine_peers.install import default_folder
from benchmarks.engine_peers.probing import build, machine, measure
from benchmarks.engine_peers.processes import pss, tree
from benchmarks.engine_peers.results import percentile
from benchmarks.engine_peers.servers import Server, started
from benchmarks.engine_peers.weights import write_tokenizer
from benchmarks.layouts import MODELS
from engine.core.machine import free_bytes
from engine.spec.matrices import matrices
from engine.spec.model import spec_from_config
from engine.spec.policy import NAMED

NAME = "V2-Lite (bf16)"
GIB = 1 << 30
NEEDED = 12 * GIB  # of free memory, to begin at all
PROMPT, ANSWER = 128, 48


def step_bytes(quantization: str = "int4") -> float:
    """Bytes of weights that the step of one stream must read; kv_b in the form that a generated token uses."""
    spec = spec_from_config(MODELS[NAME], NAME)
    policy, total = NAMED[quantization], 0.0
    for one in matrices(spec):
        share = spec.router.top_k / spec.router.experts if one.kind == "routed" else 1.0
        total += share * one.nbytes(policy.of(one.kind, one.layer), 2)
    expanded = spec.num_heads * (spec.nope_dim + spec.value_dim) * spec.kv_rank
    routers = (spec.num_layers - spec.dense_layers) * spec.router.experts * spec.hidden_size * 4
    return total - spec.num_layers * expanded + routers


def peak_rss(pid: int) -> dict[int, int]:
    """Most bytes each process of a tree has occupied so far."""
    found: dict[int, int] = {}
    for one in tree(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found[one] = int(line.split()[1]) << 10
    return found


async def together(url: str, clients: int) -> tuple[list[Answer], float]:
    """Answers of requests sent at once, and the seconds all took."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        began = time.perf_counter()
        asked = (ask(session, url, "v2lite", random_prompt(100 * clients + i, PROMPT), ANSWER) for i in range(clients))
        return list(await asyncio.gather(*asked)), time.perf_counter() - began


def load(url: str, clients: int, limit: float) -> bool:
    """One line of figures; whether all answers were whole."""
    answers, took = asyncio.run(together(url, clients))
    failed = [answer.error for answer in answers if answer.error]
    gaps = [gap for answer in answers if not answer.error for gap in answer.gaps]
    pace = 1 / percentile(gaps, 0.5) if gaps else 0.0
    first = 1e3 * percentile([answer.ttft for answer in answers if answer.arrivals], 0.5)
    of_limit = f", {pace / limit:.0%} of the limit" if clients == 1 else ""
    print(
        f"{clients:2d} clients: {sum(answer.tokens for answer in answers) / took:6.1f} tok/s with prefill; each stream "
        f"{pace:.1f} tok/s{of_limit}; first token {first:.0f} ms; {len(failed)} failed {failed[:1]}",
        flush=True,
    )
    return not failed


def main() -> int:
    """Returns 0, or 1 when a request failed, 6 when there is too little memory to begin."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.v2lite", description=__doc__)
    parser.add_argument("--quantization", choices=("int4", "int8"), default="int4")
    parser.add_argument("--kv-cache-tokens", type=int, default=16384)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8])
    args = parser.parse_args()
    if free_bytes() < NEEDED:
        print(f"error: {free_bytes() / GIB:.1f} GiB of memory are free; {NEEDED / GIB:.0f} are needed", file=sys.stderr)
        return 6
    program = build(default_folder())
    read = measure(program).read
    limit = read / step_bytes(args.quantization)
    print(" ".join(f"{name}={value}" for name, value in machine().items() if name != "features"))
    print(
        f"reads {read / 1e9:.1f} GB/s; a step of one stream reads {step_bytes(args.quantization) / 1e9:.2f} GB",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "v2lite"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODELS[NAME]))
        write_tokenizer(model, MODELS[NAME]["vocab_size"])
        command = [sys.executable, "-m", "engine.server", "--model", str(model), "--load-format", "dummy"]
        command += ["--quantization", args.quantization, "--kv-cache-tokens", str(args.kv_cache_tokens)]
        command += ["--max-model-len", "4096", "--spare-cores", "0"]
        began, is_whole = time.perf_counter(), True
        with started(Server(command, "v2lite", {"PYTHONPATH": ROOT}, ready="/ready"), Path(folder) / "log") as (
            url,
            pid,
        ):
            print(f"ready after {time.perf_counter() - began:.0f} s", flush=True)
            for clients in args.clients:
                is_whole &= load(url, clients, limit)
            peaks = peak_rss(pid)
            with urllib.request.urlopen(f"{url}/server_info", timeout=10) as response:
                plan = json.load(response)["plan"]
            planned = sum(plan.values())
            most = max(peaks.values())
            print(
                f"plan {planned / GIB:.2f} GiB {plan}; core's peak RSS {most / GIB:.2f} GiB, {most / planned:.0%} of it"
            )
            print(f"all processes: PSS {pss(pid) / GIB:.2f} GiB, peak RSS {sum(peaks.values()) / GIB:.2f} GiB")
    after = measure(program).read
    print(f"reads {after / 1e9:.1f} GB/s after; the limit of one stream is {limit:.1f} tok/s by the probe before")
    return 0 if is_whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
