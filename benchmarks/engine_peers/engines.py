"""The engines that are compared: a name, a kind, a weight format, and how each is run with and without its server."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.engine_peers.install import Peers
from benchmarks.engine_peers.llama import Llama
from benchmarks.engine_peers.processes import CORES, output
from benchmarks.engine_peers.servers import Server
from benchmarks.engine_peers.shape import BATCHES, PREFILLS

Kind = Literal["dsctl", "llama", "vllm", "transformers"]
ROOT = str(Path(__file__).resolve().parents[2])
_HERE = Path(__file__).parent
_CACHE_TOKENS = max(BATCHES) * 256
_CACHE_GIB = "1"  # vLLM's least step is a GiB
_OURS = {"PYTHONPATH": ROOT, "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Engine:
    """One row of the table."""

    name: str
    kind: Kind
    weights: str  # key of shape.BYTES
    options: tuple[tuple[str, str], ...] = ()  # ours: fields of the engine's configuration

    @property
    def has_server(self) -> bool:
        """transformers is measured behind HTTP by benchmarks.naive."""
        return self.kind != "transformers"


ENGINES = (
    Engine("dsctl-int8", "dsctl", "int8", (("kernels", "cpu"), ("quantization", "int8"))),
    Engine("dsctl-int4", "dsctl", "int4", (("kernels", "cpu"), ("quantization", "int4"))),
    Engine("dsctl-bf16", "dsctl", "bf16", (("kernels", "cpu"), ("quantization", "none"))),
    Engine("llama-q8_0", "llama", "Q8_0"),
    Engine("llama-q4_0", "llama", "Q4_0"),
    Engine("llama-bf16", "llama", "bf16"),
    Engine("vllm", "vllm", "bf16"),
    Engine("transformers", "transformers", "bf16"),
)


@dataclass(frozen=True, slots=True)
class Steps:
    """Tokens per second of an engine without its server."""

    decode: dict[int, list[float]]
    prefill: dict[str, list[float]]
    notes: list[str]


def chosen(names: str) -> list[Engine]:
    """The engines of a comma-separated list, all for an empty one. Raises ValueError naming an unknown one."""
    if not names:
        return list(ENGINES)
    known = {engine.name: engine for engine in ENGINES}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise ValueError(f"no engine is called {name!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def steps(engine: Engine, peers: Peers, rounds: int) -> Steps:
    """Decode and prefill rates."""
    if engine.kind == "llama":
        return _llama_steps(Llama(peers.llama_programs, peers.gguf(engine.weights)), rounds)
    wish: dict[str, Any] = {"model": str(peers.checkpoint), "batches": BATCHES, "prefills": PREFILLS, "rounds": rounds}
    wish["threads"] = CORES
    if engine.kind == "dsctl":
        return _inside([sys.executable, "-m", "benchmarks.engine_peers.inside_dsctl"], wish | ours(engine), _OURS)
    if engine.kind == "vllm":
        script = str(_HERE / "inside_vllm.py")
        return _inside([str(peers.python("vllm")), script], wish | {"eager": False}, vllm_environment())
    script = str(_HERE / "inside_transformers.py")
    return _inside([str(peers.python("transformers")), script], wish | {"experts": ""}, {"OMP_NUM_THREADS": str(CORES)})


def ours(engine: Engine) -> dict[str, Any]:
    """The part of a wish that describes our engine."""
    return {"options": dict(engine.options)}


def server(engine: Engine, peers: Peers) -> Server:
    """How its own server is started for up to 32 clients with 128 + 64 tokens each."""
    longest = "1024"
    if engine.kind == "dsctl":
        words = [sys.executable, "-m", "engine.server", "--model", str(peers.checkpoint), "--max-model-len", longest]
        words += ["--max-num-seqs", str(max(BATCHES)), "--kv-cache-tokens", str(_CACHE_TOKENS)]
        for name, value in engine.options:
            words += [f"--{name.replace('_', '-')}", value]
        return Server(words, peers.checkpoint.name, _OURS, ready="/ready")
    if engine.kind == "llama":
        model = peers.gguf(engine.weights)
        settings, _ = Llama(peers.llama_programs, model).best()
        words = [str(peers.llama_programs / "llama-server"), "-m", str(model), "--host", "127.0.0.1"]
        words += ["-np", str(max(BATCHES)), "-c", str(_CACHE_TOKENS), "--no-webui", *settings.common()]
        return Server(words, model.stem)
    words = [str(peers.python("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", str(peers.checkpoint)]
    words += ["--served-model-name", "bf16", "--dtype", "bfloat16", "--max-model-len", longest, "--host", "127.0.0.1"]
    words += ["--max-num-seqs", str(max(BATCHES)), "--max-num-batched-tokens", "4096"]
    return Server(words, "bf16", vllm_environment())


def distinct(peers: Peers) -> dict[int, tuple[float, ...]]:
    """Distinct experts of each MoE layer in a decode step of the checkpoint, by rows; counted once and remembered."""
    remembered = peers.checkpoint.with_name("distinct.json")
    if not remembered.exists():
        wish = {"model": str(peers.checkpoint), "what": "distinct", "batches": BATCHES, "threads": 1}
        command = [sys.executable, "-m", "benchmarks.engine_peers.inside_dsctl"]
        result = _child(command, wish | {"options": {"kernels": "reference"}}, _OURS)
        remembered.write_text(json.dumps(result["distinct"]))
    return {int(rows): tuple(layers) for rows, layers in json.loads(remembered.read_text()).items()}


def vllm_environment() -> dict[str, str]:
    """vLLM's knobs for a processor: all cores, a small cache, no reports home."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": _CACHE_GIB,
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }


def _llama_steps(llama: Llama, rounds: int) -> Steps:
    settings, tried = llama.best()
    decode, prefill = llama.batches(settings, rounds)
    filled = {f"8×{128}": prefill[8], "1×512": llama.one_prompt(settings, 512, rounds)}
    return Steps(decode, filled, [f"settings {' '.join(settings.bench())}", *tried])


def _inside(command: list[str], wish: dict[str, Any], extra: dict[str, str]) -> Steps:
    result = _child(command, wish, extra)
    decode = {int(rows): speeds for rows, speeds in result["decode"].items()}
    return Steps(decode, result["prefill"], result["notes"])


def _child(command: list[str], wish: dict[str, Any], extra: dict[str, str]) -> dict[str, Any]:
    text = output([*command, json.dumps(wish)], extra=extra)
    return json.loads(next(line for line in text.splitlines() if line.startswith("RESULT "))[7:])
