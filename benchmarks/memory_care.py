"""Prints what serving the 904 M model occupies: against its plan, and for two replicas that share packed weights.

For each number format two servers are started one after the other, with their defaults but for the size of the cache,
and loaded with prompts that fill steps and cache. Peak RSS is the core's since its start, PSS that of all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.engine_peers.client import ask, random_prompt
from benchmarks.engine_peers.engines import ROOT
from benchmarks.engine_peers.install import Peers, default_folder
from benchmarks.engine_peers.processes import pss
from benchmarks.engine_peers.servers import Server, started
from benchmarks.v2lite import peak_rss
from engine.kernels.cpu.build import user_cache
from engine.spec.memory import weight_formats
from engine.spec.model import read_spec
from engine.spec.policy import NAMED

GIB = 1 << 30
FORMATS = ("none", "int8", "int4")


@dataclass(frozen=True, slots=True)
class Taken:
    """One format; bytes."""

    plan: dict[str, int]
    weights: dict[str, int]  # by number format, as planned
    peaks: list[int]  # of each replica's core: RSS
    pss: list[int]  # with one replica, with two


def _info(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/server_info", timeout=10) as response:
        return json.load(response)


async def _fill(url: str) -> None:
    """Sixteen prompts of 480 tokens at once: full steps, a full cache, and decoding after them."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        asked = (ask(session, url, "bf16", random_prompt(seed, 480), 16) for seed in range(16))
        failed = [answer.error for answer in await asyncio.gather(*asked) if answer.error]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[0]}")


def observe(model: Path, quantization: str, cache: Path) -> Taken:
    """Two replicas, the second beside the first."""
    command = [sys.executable, "-m", "engine.server", "--model", str(model), "--quantization", quantization]
    command += ["--kv-cache-tokens", "8192", "--max-model-len", "2048"]
    server = Server(command, "bf16", {"PYTHONPATH": ROOT, "XDG_CACHE_HOME": str(cache)}, ready="/ready")
    peaks: list[int] = []
    shares: list[int] = []
    plan: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pids: list[int] = []
        for number in range(2):
            url, pid = stack.enter_context(started(server, Path(folder) / f"log{number}"))
            pids.append(pid)
            asyncio.run(_fill(url))
            info = _info(url)
            plan = info["plan"]
            peaks.append(max(peak_rss(pid).values()))
            shares.append(sum(map(pss, pids)))
    spec = read_spec(str(model))
    return Taken(plan, weight_formats(spec, "bfloat16", NAMED[quantization], packed=True), peaks, shares)


def main() -> int:
    """Returns 0, or 1 when a core occupies more than a tenth above its plan."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_care", description=__doc__)
    parser.add_argument("--only", nargs="*", default=FORMATS, choices=FORMATS)
    args = parser.parse_args()
    peers = Peers(default_folder().resolve())
    peers.install([])
    taken: dict[str, Taken] = {}
    print("| format | weights GiB | plan GiB | peak RSS, packing / mapping start | of plan | PSS of 1 / 2 replicas |")
    print("|---|---|---|---|---|---|")
    for name in args.only:
        with tempfile.TemporaryDirectory() as scratch:  # so that the first start packs
            shutil.copytree(user_cache() / "kernels", Path(scratch) / "dsctl" / "kernels")
            taken[name] = one = observe(peers.checkpoint, name, Path(scratch))
        planned = sum(one.plan.values())
        cells = [name, f"{sum(one.weights.values()) / GIB:.2f}", f"{planned / GIB:.2f}"]
        cells += [" / ".join(f"{peak / GIB:.2f}" for peak in one.peaks), f"{max(one.peaks) / planned:.0%}"]
        print("| " + " | ".join([*cells, " / ".join(f"{share / GIB:.2f}" for share in one.pss)]) + " |", flush=True)
    if plain := taken.get("none"):
        for name, one in taken.items():
            sizes = sum(one.weights.values()) / sum(plain.weights.values())
            shares = " / ".join(f"{a / b:.0%}" for a, b in zip(one.pss, plain.pss, strict=True))
            print(f"{name}: weights and scales {sizes:.0%} of 16-bit ones, PSS of 1 / 2 replicas {shares}")
    return int(any(max(one.peaks) > 1.1 * sum(one.plan.values()) for one in taken.values()))


if __name__ == "__main__":
    raise SystemExit(main())
