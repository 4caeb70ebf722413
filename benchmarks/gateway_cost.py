"""What the gateway costs: CPU per token event, per request, and per request while many streams are open.

    python -m benchmarks.gateway_cost
    python -m benchmarks.gateway_cost --compare     # beside the plainest aiohttp pass-through, in the same run

CPU is that of the gateway process (/proc/PID/stat), upstream are oracles; a figure holds for one core and one worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.rig import Program, Rig, free_port
from dsctl.gateway.upstream import Connection, Pool

TICKS = os.sysconf("SC_CLK_TCK")
PATH = "/v1/chat/completions"
WORKERS = 16
PARTS = 5


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Reader:
    """Receiver of one answer: counts data events; `done` is set at the end."""

    def __init__(self) -> None:
        self.events = 0
        self.status = 0
        self.refusal = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status came."""
        self.status = status

    def on_body(self, data: bytes) -> None:
        """Bytes came."""
        self.events += data.count(b"data: {")
        if self.status != 200:
            self.refusal += data

    def on_complete(self) -> None:
        """The end."""
        if not self.done.done():
            self.done.set_result(None)

    def on_broken(self, cause: str) -> None:
        """Broken."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(cause))


def request(tokens: int, *, stream: bool, seed: int = 1, pad: int = 900) -> bytes:
    """A chat request of about 1 KB."""
    body = {"messages": [{"role": "user", "content": "x" * pad}], "seed": seed, "max_tokens": tokens}
    data = json.dumps({**body, "stream": stream, "ignore_eos": True}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    )
    return head.encode() + b"\r\n" + data


async def connect(pool: Pool) -> Connection:
    """An idle connection or a new one."""
    return pool.take() or await pool.connect(5.0)


async def one_shots(pool: Pool, count: int, workers: int, *, stream: bool) -> None:
    """`count` one-token requests, `workers` at a time."""
    left = iter(range(count))
    data = request(1, stream=stream)

    async def work() -> None:
        for _ in left:
            reader = Reader()
            (await connect(pool)).send(reader, data)
            await reader.done
            assert reader.status == 200, (reader.status, reader.refusal)

    await asyncio.gather(*(work() for _ in range(workers)))


@dataclass(slots=True)
class Streams:
    """Open streams: their readers and connections."""

    readers: list[Reader]
    connections: list[Connection]

    @property
    def events(self) -> int:
        """Events so far."""
        return sum(reader.events for reader in self.readers)

    def close(self) -> None:
        """Leave them all."""
        for connection in self.connections:
            connection.abort()


async def open_streams(pool: Pool, count: int) -> Streams:
    """Streams without an end."""
    streams = Streams([], [])
    for seed in range(count):
        reader = Reader()
        connection = await pool.connect(5.0)
        connection.send(reader, request(1_000_000, stream=True, seed=seed))
        streams.readers.append(reader)
        streams.connections.append(connection)
    await asyncio.sleep(1.0)
    return streams


async def per_event(pid: int, pool: Pool, streams: int, seconds: float) -> tuple[float, float]:
    """CPU µs per event, and events per second."""
    opened = await open_streams(pool, streams)
    cpu, events, began = cpu_s(pid), opened.events, time.monotonic()
    await asyncio.sleep(seconds)
    cpu, events, wall = cpu_s(pid) - cpu, opened.events - events, time.monotonic() - began
    opened.close()
    await asyncio.sleep(0.3)
    return cpu / events * 1e6, events / wall


async def per_request(
    pid: int, pool: Pool, count: int, *, stream: bool, background: float = 0.0
) -> tuple[float, float]:
    """CPU µs per one-token request less `background` (CPU s per s), and requests per second: the best of five parts.

    Other work on the machine makes the same instructions take longer, never shorter.
    """
    await one_shots(pool, 200, WORKERS, stream=stream)
    parts: list[tuple[float, float]] = []
    for _ in range(PARTS):
        cpu, began = cpu_s(pid), time.monotonic()
        await one_shots(pool, count // PARTS, WORKERS, stream=stream)
        wall = time.monotonic() - began
        parts.append(((cpu_s(pid) - cpu - background * wall) / (count // PARTS) * 1e6, count / PARTS / wall))
    return min(parts)


async def idle_share(pid: int, seconds: float) -> float:
    """CPU s per s without requests of ours."""
    cpu, began = cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - cpu) / (time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of a run."""

    seconds: float
    requests: int
    streams: int


def with_rig(replica: list[str], use: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a measurement before two equal oracles."""
    with tempfile.TemporaryDirectory() as name, Rig(Path(name), replica_options=replica, ledgers=False) as rig:
        uvloop.run(_awaited(use, rig))


async def _awaited(use: Callable[[Rig], Awaitable[None]], rig: Rig) -> None:
    await use(rig)


def gateway_figures(options: Options) -> None:
    """Print the gateway's figures."""
    print("gateway, as it is started by default")

    async def events(rig: Rig) -> None:
        cost, rate = await per_event(rig.gateway.pid, Pool(rig.url), 50, options.seconds)
        print(f"  per token event        {cost:6.1f} µs CPU   (50 streams, {rate:.0f} events/s)")

    async def requests(rig: Rig) -> None:
        for stream in (False, True):
            cost, rate = await per_request(rig.gateway.pid, Pool(rig.url), options.requests, stream=stream)
            kind = "stream" if stream else "whole "
            print(f"  per request, {kind}    {cost:6.1f} µs CPU   ({rate:.0f} requests/s, best of 5)")

    with_rig(["--ttft-ms", "20", "--itl-ms", "20"], events)
    with_rig(["--ttft-ms", "0", "--itl-ms", "0"], requests)
    beside_figures(options)


def beside_figures(options: Options) -> None:
    """Print the cost of a request beside open streams; theirs is a replica of 1 s per token (2 s would be hung)."""
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(Path(name), replica_options=["--ttft-ms", "0", "--itl-ms", "0"], ledgers=False)
        rig.replicas["r2"].arguments += ["--ttft-ms", "100", "--itl-ms", "1000"]
        rig.states["r1"] = "draining"
        with rig:

            async def run() -> None:
                pid, pool = rig.gateway.pid, Pool(rig.url)
                opened = await open_streams(Pool(rig.url), options.streams)
                share = await idle_share(pid, options.seconds / 2)
                rig.publish(r1="active", r2="draining")
                await asyncio.to_thread(rig.wait_generation, rig.generation)
                beside, _ = await per_request(pid, pool, options.requests, stream=False, background=share)
                opened.close()
                await asyncio.sleep(1.0)
                alone, _ = await per_request(pid, pool, options.requests, stream=False)
                times = beside / alone
                note = f"{times:.2f} × the {alone:.1f} µs without"
                print(f"  beside {options.streams} streams     {beside:6.1f} µs CPU per request, {note}")
                print(f"  (what the streams themselves cost, {share * 100:.1f} % of a core, is taken off)")

            uvloop.run(run())


def passthrough_figures(options: Options) -> None:
    """Print the same figures of the pass-through."""
    print("plainest pass-through (raw ASGI, uvicorn, aiohttp; no checks, no health, no continuation)")
    for title, replica in (("event", ["--itl-ms", "20"]), ("request", ["--ttft-ms", "0", "--itl-ms", "0"])):
        with tempfile.TemporaryDirectory() as name:
            oracle = Program("oracle", ["-m", "dsctl.oracle", *replica], Path(name))
            oracle.start()
            os.environ["UPSTREAM"] = oracle.url()
            port = free_port()
            serve = ["-m", "uvicorn", "benchmarks.passthrough:app", "--port", str(port), "--no-access-log"]
            proxy = Program("proxy", [*serve, "--loop", "uvloop", "--http", "httptools"], Path(name))
            proxy.start()
            try:
                time.sleep(2.0)
                uvloop.run(_passthrough(proxy.pid, f"http://127.0.0.1:{port}", title, options))
            finally:
                proxy.end()
                oracle.end()


async def _passthrough(pid: int, url: str, title: str, options: Options) -> None:
    pool = Pool(url)
    if title == "event":
        cost, rate = await per_event(pid, pool, 50, options.seconds)
        print(f"  per token event        {cost:6.1f} µs CPU   (50 streams, {rate:.0f} events/s)")
        return
    for stream in (False, True):
        cost, rate = await per_request(pid, pool, options.requests, stream=stream)
        kind = "stream" if stream else "whole "
        print(f"  per request, {kind}    {cost:6.1f} µs CPU   ({rate:.0f} requests/s, best of 5)")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--compare", action="store_true")
    chosen = parser.parse_args()
    options = Options(chosen.seconds, chosen.requests, chosen.streams)
    gateway_figures(options)
    if chosen.compare:
        passthrough_figures(options)


if __name__ == "__main__":
    main()
