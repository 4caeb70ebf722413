"""The trained model as a Hugging Face `deepseek_v3` checkpoint in bfloat16, and the way back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.model import ModelConfig, Transformer

_EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


def to_hf(model: Transformer) -> dict[str, Tensor]:
    """Tensors under their published names; the draft layer follows the last, without copied embedding and head."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for hf, tensor in _rename(name, value, model.c.num_hidden_layers):
            tensors[hf] = tensor.float() if hf.endswith("e_score_correction_bias") else tensor.bfloat16()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _rename(name: str, value: Tensor, layers: int) -> list[tuple[str, Tensor]]:
    if name.startswith("mtp."):
        rest = name.removeprefix("mtp.").removeprefix("block.")
        name = f"layers.{layers}." + ("shared_head.norm.weight" if name == "mtp.norm.weight" else rest)
    if name.endswith("mlp.gate"):
        return [(f"model.{name}.weight", value)]
    if name.endswith("mlp.bias"):
        return [(f"model.{name.removesuffix('bias')}gate.e_score_correction_bias", value)]
    stem, _, last = name.rpartition(".")
    if last in _EXPERT_PARTS:
        return [(f"model.{stem}.experts.{i}.{last}.weight", part) for i, part in enumerate(value.unbind())]
    return [(name if name == "lm_head.weight" else f"model.{name}", value)]


def load(folder: Path) -> Transformer:
    """A `Transformer` in fp32 from an exported checkpoint; raises KeyError naming a tensor that is missing."""
    model = Transformer(ModelConfig.from_json(json.loads((folder / "config.json").read_text())))
    tensors = load_file(folder / "model.safetensors")
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        names = [hf for hf, _ in _rename(name, value, model.c.num_hidden_layers)]
        parts = [tensors[hf].float() for hf in names]
        state[name] = torch.stack(parts) if ".experts." in names[0] else parts[0]
    model.load_state_dict(state)
    return model.eval()


def config_json(c: ModelConfig) -> dict[str, object]:
    """`config.json` of the checkpoint."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **dataclasses.asdict(c),
        "num_key_value_heads": c.num_attention_heads,
        "num_nextn_predict_layers": 1,
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "hidden_act": "silu",
        "rope_scaling": None,
        "rope_interleave": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "ep_size": 1,
        "pad_token_id": c.eos_token_id,
    }


def export(model: Transformer, folder: Path) -> None:
    """Write model.safetensors, config.json and generation_config.json."""
    save_file(to_hf(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_json(model.c), indent=2) + "\n")
    generation = {
        "bos_token_id": model.c.bos_token_id,
        "eos_token_id": model.c.eos_token_id,
        "do_sample": False,
        "max_new_tokens": 64,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
