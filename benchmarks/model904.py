"""A DeepSeek-V3-shaped checkpoint of 904 M parameters with random weights, made once in the user's cache."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.kernels.cpu.build import user_cache
from engine.modeling.loader import Dummy
from engine.modeling.tensors import expected_shapes
from engine.spec.model import read_spec

CONFIG = {  # 904 M parameters, 205 M of them active
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "moe_intermediate_size": 704,
    "num_hidden_layers": 12,
    "first_k_dense_replace": 1,
    "num_attention_heads": 8,
    "q_lora_rank": 384,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


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
