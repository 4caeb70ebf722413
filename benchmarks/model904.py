"""A DeepSeek-V3-shaped checkpoint of 904 M parameters with random weights, made once in the user's cache."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.engine_peers.shape import CONFIG
from engine.kernels.cpu.build import user_cache
from engine.modeling.dummy import Dummy
from engine.modeling.tensors import expected_shapes
from engine.spec.model import read_spec


def checkpoint(directory: Path | None = None) -> Path:
    """Directory with config.json and bfloat16 weights (1.8 GB); made whole or not at all."""
    target = directory or user_cache() / "benchmarks" / "random-904m"
    if (target / "model.safetensors").exists():
        return target
    print(f"making a checkpoint of 904 M random parameters in {target}, once", file=sys.stderr, flush=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(CONFIG, indent=1))
    shapes = expected_shapes(read_spec(str(target)))
    get = Dummy(shapes).get
    tensors = {name: get(name).to(torch.bfloat16) for name in shapes}
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        made = Path(scratch, "model.safetensors")
        save_file(tensors, made)
        made.replace(target / "model.safetensors")
    return target
