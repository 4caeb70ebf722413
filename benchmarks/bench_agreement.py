"""`dsctl bench` beside `vllm bench serve`, guidellm and a plain socket client: same server, same prompts, one run.

    python -m benchmarks.bench_agreement [--install] [--streams 50] [--rounds 2] [--target oracle|llama|vllm|dsctl]

Medians are compared where the definitions agree: time to first token from the moment a request is sent, time from then
to the last token, (last − first) / (n − 1), and gaps between chunks (guidellm tells none). The clients take turns,
round by round. CPU is that of a client's whole process tree; a short run is subtracted from each long one, so that
imports and start-up are nobody's cost. The oracle's tokens are on a known schedule, so its row is the truth.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.bench_clients import Client, Seen, Task, clients, install, write_prompts
from benchmarks.engine_peers import engines, servers
from benchmarks.engine_peers.install import Peers, default_folder
from benchmarks.engine_peers.processes import end_children_on_sigterm
from dsctl.bench.mock import serving

TTFT_MS, ITL_MS = 200.0, 20.0
LENGTHS = (60, 140)  # tokens of an answer against the oracle; unequal, so that streams do not stay in step
REAL_LENGTHS = (32, 64)
METRICS = (("ttft", "TTFT p50"), ("e2e", "last token p50"), ("tpot", "TPOT p50"), ("gaps", "gap between chunks p50"))
TARGETS = {"llama": "llama-q4_0", "vllm": "vllm", "dsctl": "dsctl-int8"}


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the peers' environments first")
    parser.add_argument("--target", default="oracle", choices=("oracle", *TARGETS))
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="names of clients, with commas")
    options = parser.parse_args()
    end_children_on_sigterm()
    peers = Peers(default_folder())
    if options.install:
        install(peers)
    wanted = [one for one in clients(peers) if not options.only or one.name in options.only.split(",")]
    with tempfile.TemporaryDirectory() as folder, target(options.target, peers, Path(folder)) as (url, model):
        found = measured(wanted, (url, model), options, Path(folder))
    print(f"{options.target}, {options.streams} streams, {options.rounds} rounds, medians in milliseconds")
    print("\n".join(table(found, is_oracle=options.target == "oracle")))


@contextlib.contextmanager
def target(name: str, peers: Peers, folder: Path) -> Iterator[tuple[str, str]]:
    """(URL, model) of the server that all clients ask."""
    if name == "oracle":
        with serving(TTFT_MS, ITL_MS) as oracle:
            yield oracle.url, "oracle"
    else:
        (engine,) = engines.chosen(TARGETS[name])
        server = engines.server(engine, peers)
        with servers.started(server, folder / "server.log") as (url, _):
            yield url, server.model


def measured(
    wanted: list[Client], server: tuple[str, str], options: argparse.Namespace, folder: Path
) -> dict[str, tuple[Seen, float, int]]:
    """Of each client: all long runs together, and the CPU and tokens of the long runs beyond the short ones."""
    is_oracle = options.target == "oracle"
    long, short = options.streams * (6 if is_oracle else 8), options.streams
    draw, between = random.Random(1), LENGTHS if is_oracle else REAL_LENGTHS
    lengths = [draw.randint(*between) for _ in range(long)]
    found = {client.name: (Seen(), 0.0, 0) for client in wanted}

    def once(client: Client, count: int, name: str) -> Seen:
        """A run with prompts of its own, or the server's prefix cache would answer whoever comes later."""
        prompts = folder / f"{name}.jsonl"
        write_prompts(prompts, lengths[:count], name)
        return client.run(Task(*server, prompts, options.streams, count), folder / name)

    if not is_oracle:
        once(wanted[0], short, "warm-up")
    for number in range(options.rounds):
        for client in wanted if number % 2 == 0 else reversed(wanted):
            name = f"{client.name.replace(' ', '-')}-{number}"
            less, more = once(client, short, f"{name}-short"), once(client, long, f"{name}-long")
            seen, cpu_s, tokens = found[client.name]
            seen.add(more)
            found[client.name] = (seen, cpu_s + more.cpu_s - less.cpu_s, tokens + more.tokens - less.tokens)
            print(f"{client.name}, round {number + 1}: {more.wall_s:.1f} s", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, tuple[Seen, float, int]], *, is_oracle: bool) -> list[str]:
    """Markdown: a row a client, how far it is from ours in brackets."""
    heads = ["client", *(label for _, label in METRICS), "CPU µs a token", "tokens"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    if is_oracle:
        truth = {"ttft": TTFT_MS, "tpot": ITL_MS, "gaps": ITL_MS}
        lines.append("| the schedule | " + " | ".join(f"{truth.get(name, '')}" for name, _ in METRICS) + " | | |")
    ours = next(iter(found.values()))[0]
    for name, (seen, cpu_s, tokens) in found.items():
        cells = [cell(getattr(seen, metric), getattr(ours, metric)) for metric, _ in METRICS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {cpu_s / max(1, tokens) * 1e6:.1f} | {seen.tokens} |")
    return lines + [
        f"{name} does not believe its run: {seen.doubt}" for name, (seen, _, _) in found.items() if seen.doubt
    ]


def cell(values: list[float], ours: list[float]) -> str:
    """A median, and its distance from ours."""
    if not values:
        return ""
    middle, base = median(values) * 1000, median(ours) * 1000
    return f"{middle:.2f}" + ("" if values is ours or not base else f" ({middle / base - 1:+.1%})")


if __name__ == "__main__":
    main()
