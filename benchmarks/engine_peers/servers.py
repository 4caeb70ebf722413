"""Every engine's own server, started, asked over HTTP and ended: what a user of it gets."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.engine_peers.client import ask, load, random_prompt
from benchmarks.engine_peers.processes import FailedError, Others, cpu_s, pss, running, tail
from benchmarks.engine_peers.results import Http
from benchmarks.rig import free_port

START_S = 240.0
ROUNDS = {1: 3}  # one round of 8 or 32 clients has tokens enough


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one. The command gets `--port N` appended."""

    command: Sequence[str]
    model: str  # the name clients ask for
    extra: dict[str, str] = field(default_factory=dict[str, str])  # environment
    ready: str = "/health"  # answers 200 when the model is loaded


@dataclass(frozen=True, slots=True)
class Served:
    """What its clients saw, and what it took."""

    http: tuple[Http, ...]
    load_s: float
    pss: int
    others: float  # share of the processors that other processes took during the loads


def is_up(address: str) -> bool:
    """It answers with 200."""
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def started(server: Server, log: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of a server that is up. Raises FailedError with its log when it does not come up."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running([*server.command, "--port", str(port)], log, server.extra) as child:
        deadline = time.monotonic() + START_S
        while not is_up(url + server.ready):
            if child.poll() is not None or time.monotonic() > deadline:
                raise FailedError(f"{server.command[0]} did not come up:\n{tail(log)}")
            time.sleep(0.02)
        yield url, child.pid


async def first_answer(url: str, model: str) -> None:
    """One short answer. Raises FailedError when it fails."""
    async with aiohttp.ClientSession() as session:
        answer = await ask(session, url, model, random_prompt(1), 8)
    if answer.error:
        raise FailedError(f"{url} does not answer: {answer.error}")


def serve(server: Server, clients: Sequence[int]) -> Served:
    """Start, load with each number of clients, end."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with started(server, Path(folder) / "log") as (url, pid):
            asyncio.run(first_answer(url, server.model))
            load_s = time.perf_counter() - began
            most, loads, others, used = pss(pid), list[Http](), Others(), cpu_s(pid)
            for count in clients:
                loads.append(load(url, server.model, count, ROUNDS.get(count, 1)))
                most = max(most, pss(pid))
            return Served(tuple(loads), load_s, most, others.share(cpu_s(pid) - used))
