"""`python -m benchmarks.naive`: first token, throughput, memory and recovery of the naive server and of our default."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from benchmarks.engine_peers.client import Answer, ask, random_prompt
from benchmarks.engine_peers.engines import ROOT
from benchmarks.engine_peers.install import Peers, default_folder
from benchmarks.engine_peers.probing import build, machine, measure
from benchmarks.engine_peers.processes import (
    CORES,
    FailedError,
    end_children_on_sigterm,
    pss,
    running,
    tail,
    tree,
)
from benchmarks.engine_peers.results import percentile
from benchmarks.engine_peers.servers import Server, first_answer, is_up
from benchmarks.engine_peers.shape import ANSWER
from benchmarks.rig import free_port

START_S = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: each client asks again as soon as its answer has ended."""

    clients: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    tokens_per_s: float
    answers: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One server."""

    name: str
    start_s: float
    loads: list[Load]
    peak_pss: int
    recovery_s: dict[str, float]  # killed process → seconds from kill -9 to the next whole answer


async def closed_loop(url: str, model: str, clients: int, seconds: float) -> Load:
    """Load for `seconds`, at least one request a client; answers begun by then are waited for."""
    timeout = aiohttp.ClientTimeout(total=600)
    began = time.perf_counter()
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(index: int) -> list[Answer]:
            answers: list[Answer] = []
            while not answers or time.perf_counter() - began < seconds:
                prompt = random_prompt(clients * 100_000 + index * 1000 + len(answers))
                answers.append(await ask(session, url, model, prompt, ANSWER))
            return answers

        answers = [a for many in await asyncio.gather(*map(client, range(clients))) for a in many]
    took = time.perf_counter() - began
    good = [answer for answer in answers if not answer.error and answer.arrivals]
    firsts = [1e3 * answer.ttft for answer in good]
    return Load(
        clients,
        percentile(firsts, 0.5),
        percentile(firsts, 0.99),
        sum(answer.tokens for answer in good) / took,
        len(answers),
        len(answers) - len(good),
    )


def answers_again(url: str, model: str) -> float:
    """Seconds until a short answer comes."""
    began = time.perf_counter()
    while time.perf_counter() - began < START_S:
        try:
            asyncio.run(first_answer(url, model))
        except FailedError:
            time.sleep(0.02)
        else:
            return time.perf_counter() - began
    raise FailedError(f"{url} does not answer again within {START_S:.0f} s")


def wait_up(url: str, server: Server, log: Path) -> None:
    """Poll until it is ready."""
    deadline = time.monotonic() + START_S
    while not is_up(url + server.ready):
        if time.monotonic() > deadline:
            raise FailedError(f"{server.command[0]} did not come up:\n{tail(log)}")
        time.sleep(0.02)


def core_of(pid: int) -> int:
    """The process of our server that computes: the largest below the API process."""
    return max((one for one in tree(pid) if one != pid), key=lambda one: pss_of(one))


def pss_of(pid: int) -> int:
    """Proportional share of one process alone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def observe(name: str, server: Server, seconds: float, below: Callable[[int], int] | None) -> Figures:
    """All figures of one server. A killed server is started again at once, as a supervisor would."""
    with tempfile.TemporaryDirectory() as folder:
        log, port = Path(folder) / "log", free_port()
        url, command = f"http://127.0.0.1:{port}", [*server.command, "--port", str(port)]
        recovery: dict[str, float] = {}
        began = time.perf_counter()
        with running(command, log, server.extra) as child:
            wait_up(url, server, log)
            asyncio.run(first_answer(url, server.model))
            start_s, loads, most = time.perf_counter() - began, list[Load](), pss(child.pid)
            for clients in (1, 16):
                loads.append(asyncio.run(closed_loop(url, server.model, clients, seconds)))
                most = max(most, pss(child.pid))
            if below is not None:
                os.kill(below(child.pid), signal.SIGKILL)
                recovery["core"] = answers_again(url, server.model)
            os.kill(child.pid, signal.SIGKILL)
            killed = time.perf_counter()
            child.wait()
        with running(command, log, server.extra):
            answers_again(url, server.model)
            recovery["server"] = time.perf_counter() - killed
    return Figures(name, start_s, loads, most, recovery)


def servers(peers: Peers, options: list[str]) -> dict[str, tuple[Server, Callable[[int], int] | None]]:
    """Both by name; ours with its defaults but for `options`."""
    model = str(peers.checkpoint)
    script = str(Path(__file__).with_name("server.py"))
    naive = [str(peers.python("transformers")), script, "--model", model, "--threads", str(CORES)]
    ours = [sys.executable, "-m", "engine.server", "--model", model, "--max-model-len", "1024", *options]
    return {
        "naive": (Server(naive, "bf16", {"OMP_NUM_THREADS": str(CORES)}), None),
        "dsctl": (Server(ours, "bf16", {"PYTHONPATH": ROOT}, ready="/ready"), core_of),
    }


def show(figures: list[Figures]) -> list[str]:
    """Markdown lines: the figures, then ours over the naive one's."""
    lines = [
        "| server | clients | TTFT p50 / p99 ms | tok/s | failed | peak PSS GiB | start s | kill -9 to next answer s |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in figures:
        recovered = ", ".join(f"{what} {took:.2f}" for what, took in one.recovery_s.items())
        for load in one.loads:
            cells = [one.name, load.clients, f"{load.ttft_p50_ms:.0f} / {load.ttft_p99_ms:.0f}"]
            cells += [f"{load.tokens_per_s:.0f}", f"{load.failed} of {load.answers}", f"{one.peak_pss / 2**30:.2f}"]
            lines.append("| " + " | ".join(map(str, [*cells, f"{one.start_s:.1f}", recovered])) + " |")
    if len(figures) == 2:
        lines += _compared(*figures)
    return lines


def _compared(naive: Figures, ours: Figures) -> list[str]:
    lines = [f"memory {ours.peak_pss / naive.peak_pss - 1:+.0%}"]
    for theirs, own in zip(naive.loads, ours.loads, strict=True):
        first, rate = own.ttft_p50_ms / theirs.ttft_p50_ms - 1, own.tokens_per_s / theirs.tokens_per_s
        lines.append(f"{own.clients} clients: time to first token {first:+.0%}, throughput {rate:.1f}×")
    return lines


def main() -> int:
    """Returns 0, or 1 when requests failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description=__doc__)
    parser.add_argument(
        "--venvs", type=Path, default=default_folder(), metavar="DIR", help="where peers and models lie"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a load (default %(default)s)")
    parser.add_argument("--only", choices=("naive", "dsctl"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="more options for our server, after --")
    args = parser.parse_args()
    end_children_on_sigterm()
    peers = Peers(args.venvs.resolve())
    peers.install(["transformers"])
    program, figures = build(peers.folder), list[Figures]()
    print(" ".join(f"{name}={value}" for name, value in machine().items() if name != "features"))
    print(f"reads {measure(program).read / 1e9:.1f} GB/s before")
    for name, (server, below) in servers(peers, args.options).items():
        if args.only in (None, name):
            figures.append(observe(name, server, args.seconds, below))
    print(f"reads {measure(program).read / 1e9:.1f} GB/s after")
    print("\n".join(show(figures)))
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in figures], indent=1))
    return int(any(load.failed for one in figures for load in one.loads))


if __name__ == "__main__":
    raise SystemExit(main())
