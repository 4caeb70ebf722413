"""One script for a machine with an NVIDIA GPU: are the kernels right, how fast, and how near to the limit of memory.

`python -m benchmarks.gpu --out gpu.json` first runs the kernels' tests on the card, then serves the V2-Lite shape with
weights generated there (nothing on disk), in bfloat16 and in int8, from captured graphs: one stream, and 64 streams of
1 000 tokens in and out. `--device cpu --tiny` walks the same path without a GPU, slowly, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor

from benchmarks.decode import Rig
from benchmarks.layouts import MODELS
from engine.caching.pool import BlockPool
from engine.core.inbox import Inbox
from engine.core.loop import Loop
from engine.modeling.device import DeviceBuilder, DeviceModel
from engine.modeling.fused import Weights
from engine.modeling.tensors import expected_shapes
from engine.running.device import DeviceRunner
from engine.running.graphs import Graphs
from engine.scheduling.admission import Limits
from engine.scheduling.scheduler import Scheduler
from engine.spec.config import EngineConfig
from engine.spec.memory import weight_counts
from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.policy import NAMED

_TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "intermediate_size": 64, "vocab_size": 128, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16, "v_head_dim": 16, "n_shared_experts": 1,
}  # fmt: skip


def generated(spec: ModelSpec, device: torch.device) -> Weights:
    """Random tensors, made on the device when they are asked for."""
    shapes = expected_shapes(spec)

    def get(name: str) -> Tensor:
        shape = shapes[name]
        if name.endswith("norm.weight"):
            return torch.ones(shape, device=device)
        return torch.randn(shape, device=device) / shape[-1] ** 0.5

    return Weights(get, get, lambda name: None)


def probe(device: torch.device) -> float:
    """Bytes per second of a copy within the device's memory, read and written."""
    size = 1 << (30 if device.type == "cuda" else 22)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = max(best, 2 * size / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_bytes(spec: ModelSpec, streams: int, bytes_of_a_value: float, context: int) -> float:
    """What one decode step must read: weights that every token uses, experts that `streams` tokens reach, the cache."""
    counts, router = weight_counts(spec), spec.router
    reached = 1 - (1 - router.top_k / router.experts) ** streams
    always = counts.total - counts.routed - counts.embedding  # of the embedding a row each
    cache = spec.num_layers * spec.latent_dim * 2 * context * streams
    return (always + counts.routed * reached) * bytes_of_a_value + cache


def rig(model: DeviceModel, streams: int, positions: int, budget: int) -> tuple[Rig, int]:
    """The core loop on the device, and the bytes that its graphs took."""
    config = EngineConfig(model="generated", max_num_seqs=streams, max_num_batched_tokens=budget, max_queue=4 * streams)
    blocks = streams * -(-positions // config.block_size) + 1
    cache = model.new_cache(blocks, config.block_size)
    graphs = Graphs(model, cache, streams, positions) if model.device.type == "cuda" else None
    scheduler = Scheduler(
        config, Limits(model.spec.vocab_size, positions, blocks * config.block_size), BlockPool(blocks)
    )
    runner = DeviceRunner(model, cache, graphs)
    said: list[msgspec.Struct] = []
    loop = Loop(scheduler, runner, cast("Inbox", None), said.append)
    return Rig(loop, said, model.spec.vocab_size), graphs.nbytes if graphs else 0


def measure(spec: ModelSpec, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One number format: one stream, then many."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    start = time.perf_counter()
    positions = args.prompt + args.output + 16
    model = DeviceBuilder(spec, NAMED[name], generated(spec, device), device, dtype).build(positions, "generated")
    _wait(device)
    load_s = time.perf_counter() - start
    found: list[dict[str, Any]] = []
    for streams, output in ((1, min(256, args.output)), (args.streams, args.output)):
        one, graph_bytes = rig(model, streams, positions, 8192)
        for prompt in (8, args.prompt):  # the first round warms up
            for _ in range(streams):
                one.submit(prompt, output if prompt == args.prompt else 4, 1.0)
            _wait(device)
            began = time.perf_counter()
            steps = one.drain()
            _wait(device)
        took = time.perf_counter() - began
        decode = sorted(steps)[len(steps) // 2]
        value = 1.0 if name == "int8" else 2.0
        floor = read_bytes(spec, streams, value, args.prompt + output // 2) / args.rate
        found.append({
            "weights": name, "streams": streams, "prompt": args.prompt, "output": output, "load_s": load_s,
            "output_tok_s": streams * output / took, "decode_step_ms": 1e3 * decode,
            "decode_tok_s": streams / decode, "share_of_memory_limit": floor / decode, "graph_bytes": graph_bytes,
        })  # fmt: skip
        print(json.dumps(found[-1]), flush=True)
    return found


def tests() -> dict[str, Any]:
    """The kernels' tests on this card."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "--timeout", "400", "tests/engine/kernels/triton"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], flush=True)
    return {"passed": done.returncode == 0, "seconds": time.perf_counter() - start, "said": done.stdout[-500:]}


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--output", type=int, default=1000)
    return parser.parse_args()


def main() -> int:
    """Exit 1 when a test failed."""
    args = arguments()
    device = torch.device(args.device)
    config = MODELS["V2-Lite (bf16)"] | (_TINY if args.tiny else {})
    spec = replace(spec_from_config(config, "V2-Lite shape"), max_positions=8192)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: Triton's interpreter"
    found: dict[str, Any] = {"schema_version": 1, "card": card, "torch": torch.__version__}
    found["tests"] = None if args.skip_tests else tests()
    args.rate = found["copy_bytes_per_s"] = probe(device)
    found["runs"] = [row for name in ("none", "int8") for row in measure(spec, name, args)]
    args.out.write_text(json.dumps(found, indent=1))
    print(f"written to {args.out}")
    return 0 if found["tests"] is None or found["tests"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
