"""The comparison with other load clients: what each one's results mean, and a client that shares no code with ours."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from benchmarks import bench_agreement, bench_clients
from benchmarks.bench_clients import Seen, Task
from benchmarks.engine_peers.install import Peers
from dsctl.bench.mock import serving
from tests.dsctl.bench.scripted import CHUNKED, chunk, server
from tests.dsctl.bench.test_answer import frame

TEXT = chunk(frame({"choices": [{"index": 0, "text": "x", "finish_reason": None}]}))
USAGE = chunk(frame({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}))
DONE = chunk(frame("[DONE]")) + b"0\r\n\r\n"


def client(name: str) -> bench_clients.Client:
    """One of those that are compared."""
    return next(one for one in bench_clients.clients(Peers(Path("/nowhere"))) if one.name == name)


def test_the_results_of_peers_mean_the_same(tmp_path: Path) -> None:
    """A first token after 0.2 s and three gaps of 0.1 s read as that from either peer's file."""
    (tmp_path / "result.json").write_text(
        json.dumps({"ttfts": [0.2, 0.0], "itls": [[0.1, 0.1, 0.1], []], "output_lens": [4, 0]})
    )
    vllm = bench_clients.read_vllm(tmp_path)
    timings = {"request_start": 10.0, "first_token_iteration": 10.2, "last_token_iteration": 10.5}
    told = {"requests": {"successful": [{"output_tokens": 4, "info": {"timings": timings}}]}}
    (tmp_path / "result.json").write_text(json.dumps({"benchmarks": [told]}))
    guidellm = bench_clients.read_guidellm(tmp_path)
    for seen in (vllm, guidellm):
        assert (seen.ttft, seen.e2e, seen.tpot) == ([pytest.approx(0.2)], [pytest.approx(0.5)], [pytest.approx(0.1)])
        assert seen.tokens == 4
    assert (vllm.gaps, guidellm.gaps) == ([0.1, 0.1, 0.1], [])


def test_the_plain_client_counts_what_it_gets(tmp_path: Path) -> None:
    """Each prompt is asked once and read to its end: two chunks, two tokens by usage, one gap."""
    asked: list[str] = []

    def play(connection: socket.socket, _: int, body: bytes) -> bool:
        asked.append(json.loads(body)["prompt"])
        connection.sendall(CHUNKED + TEXT + TEXT + USAGE + DONE)
        return True

    prompts = tmp_path / "prompts.jsonl"
    bench_clients.write_prompts(prompts, [2] * 6)
    with server(play) as url:
        seen = client("raw sockets").run(Task(url, "m", prompts, 2, 6), tmp_path / "raw")
    assert len(set(asked)) == len(asked) == 6
    assert (len(seen.ttft), len(seen.gaps), seen.tokens) == (6, 6, 12)
    assert seen.cpu_s > 0


def test_the_table_says_how_far_apart_they_are() -> None:
    """Distances are from the first client; doubts and missing figures are shown as such."""
    ours, other = Seen([0.2], [0.02], [0.02], [1.0], 10, doubt="busy"), Seen([0.206], [], [0.02], [1.0], 10)
    lines = bench_agreement.table({"a": (ours, 1e-4, 10), "b": (other, 2e-4, 10)}, is_oracle=True)
    assert lines[-2].startswith("| b | 206.00 (+3.0%) | 1000.00 (+0.0%) | 20.00 (+0.0%) |  | 20.0 |")
    assert lines[-1] == "a does not believe its run: busy"


@pytest.mark.long
def test_our_medians_are_those_of_a_plain_client(tmp_path: Path) -> None:
    """Against one server, medians of both clients agree to 3 ms; a run of ours that calls itself invalid is a skip."""
    prompts = tmp_path / "prompts.jsonl"
    bench_clients.write_prompts(prompts, [20, 25, 30, 35] * 10)
    with serving(100, 20) as oracle:
        task = Task(oracle.url, "oracle", prompts, 8, 40)
        ours, plain = (client(name).run(task, tmp_path / name) for name in ("dsctl bench", "raw sockets"))
    if ours.doubt:
        pytest.skip(ours.doubt)
    for name in ("ttft", "gaps", "tpot", "e2e"):
        one, other = (sorted(getattr(seen, name)) for seen in (ours, plain))
        assert abs(one[len(one) // 2] - other[len(other) // 2]) < 0.003, name
