"""Makes tiny random DeepSeek-V2/V3 checkpoints on disk, of every supported variant, in a fraction of a second."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

Config = dict[str, Any]

SPECIALS = (
    "<|bos|>",
    "<|eos|>",
    "<|user|>",
    "<|assistant|>",
    "<think>",
    "</think>",
)  # ids 256 … 261; ids 0 … 255 are bytes
VOCAB = 256 + len(SPECIALS)
BOS, EOS, USER, ASSISTANT, THINK, END_THINK = range(256, VOCAB)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_BASE: Config = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "hidden_act": "silu",
    "attention_bias": False,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float32",
}
_V2: Config = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "n_group": None,
    "topk_group": None,
    "routed_scaling_factor": 1.0,
}
_V3: Config = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "topk_method": "noaux_tc",
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 0,
}
_YARN: Config = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.5,
}
_BLOCKS: Config = {  # every dimension leaves a partial last block of 128
    "hidden_size": 160,
    "intermediate_size": 272,
    "moe_intermediate_size": 144,
    "kv_lora_rank": 136,
    "q_lora_rank": 48,
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
}
_GROUPED: Config = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0}

VARIANTS: dict[str, Config] = {
    "v2-greedy": {**_BASE, **_V2, "q_lora_rank": None, "n_shared_experts": 2},
    "v2-greedy-qlora": {**_BASE, **_V2},
    "v2-group": {**_BASE, **_V2, **_GROUPED},
    "v2-yarn": {**_BASE, **_V2, "q_lora_rank": None, "rope_scaling": {**_YARN, "mscale_all_dim": 0.707}},
    "v3": {**_BASE, **_V3},
    "v3-yarn": {**_BASE, **_V3, "rope_scaling": _YARN},
    "v3-fp8": {**_BASE, **_V3, **_BLOCKS},
    "v3-mtp": {**_BASE, **_V3, "num_nextn_predict_layers": 1},
    "v3-tied": {**_BASE, **_V3, "tie_word_embeddings": True},
}


def make_config(variant: str = "v3", **overrides: Any) -> Config:
    """config.json of a variant, with any key replaced."""
    return {**VARIANTS[variant], **overrides}


class _Random:
    """Seeded weights whose outputs have about unit size, so that errors are neither hidden nor blown up."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * std

    def linear(self, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return self.normal(rows, columns, std=gain / math.sqrt(columns))

    def norm(self, size: int) -> Tensor:
        return 1.0 + self.normal(size, std=0.1)


def _attention(config: Config, rnd: _Random) -> dict[str, Tensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    latent, q_lora = config["kv_lora_rank"], config["q_lora_rank"]
    tensors = {
        "kv_a_proj_with_mqa.weight": rnd.linear(latent + rope, hidden),
        "kv_a_layernorm.weight": rnd.norm(latent),
        "kv_b_proj.weight": rnd.linear(heads * (nope + value), latent),
        "o_proj.weight": rnd.linear(hidden, heads * value),
    }
    if q_lora is None:
        return {**tensors, "q_proj.weight": rnd.linear(heads * (nope + rope), hidden, 1.5)}
    return {
        **tensors,
        "q_a_proj.weight": rnd.linear(q_lora, hidden),
        "q_a_layernorm.weight": rnd.norm(q_lora),
        "q_b_proj.weight": rnd.linear(heads * (nope + rope), q_lora, 1.5),
    }


def _mlp(hidden: int, inner: int, rnd: _Random, prefix: str = "") -> dict[str, Tensor]:
    return {
        f"{prefix}gate_proj.weight": rnd.linear(inner, hidden),
        f"{prefix}up_proj.weight": rnd.linear(inner, hidden),
        f"{prefix}down_proj.weight": rnd.linear(hidden, inner),
    }


def _experts(config: Config, rnd: _Random) -> dict[str, Tensor]:
    hidden, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    tensors = {"gate.weight": rnd.linear(count, hidden)}
    if config["topk_method"] == "noaux_tc":
        tensors["gate.e_score_correction_bias"] = rnd.normal(count, std=0.1)
    for expert in range(count):
        tensors |= _mlp(hidden, inner, rnd, f"experts.{expert}.")
    return tensors | _mlp(hidden, inner * config["n_shared_experts"], rnd, "shared_experts.")


def _layer(config: Config, index: int, rnd: _Random) -> dict[str, Tensor]:
    hidden = config["hidden_size"]
    dense = index < config["first_k_dense_replace"]
    mlp = _mlp(hidden, config["intermediate_size"], rnd) if dense else _experts(config, rnd)
    prefix = f"model.layers.{index}."
    return {
        f"{prefix}input_layernorm.weight": rnd.norm(hidden),
        f"{prefix}post_attention_layernorm.weight": rnd.norm(hidden),
        **{f"{prefix}self_attn.{name}": tensor for name, tensor in _attention(config, rnd).items()},
        **{f"{prefix}mlp.{name}": tensor for name, tensor in mlp.items()},
    }


def _mtp_extras(config: Config, index: int, rnd: _Random, head: Tensor, embed: Tensor) -> dict[str, Tensor]:
    hidden, prefix = config["hidden_size"], f"model.layers.{index}."
    return {
        f"{prefix}enorm.weight": rnd.norm(hidden),
        f"{prefix}hnorm.weight": rnd.norm(hidden),
        f"{prefix}eh_proj.weight": rnd.linear(hidden, 2 * hidden),
        f"{prefix}shared_head.norm.weight": rnd.norm(hidden),
        f"{prefix}shared_head.head.weight": head.clone(),
        f"{prefix}embed_tokens.weight": embed.clone(),
    }


def make_tensors(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """All float32 tensors of a checkpoint under their published names; logits have a standard deviation of about 2."""
    rnd = _Random(seed)
    hidden, vocab, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    embed, head = rnd.normal(vocab, hidden, std=1.0), rnd.linear(vocab, hidden, 2.0)
    if config["tie_word_embeddings"]:
        embed = head
    tensors = {"model.embed_tokens.weight": embed, "model.norm.weight": rnd.norm(hidden)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = head
    for index in range(layers + config.get("num_nextn_predict_layers", 0)):
        tensors |= _layer(config, index, rnd)
        if index >= layers:
            tensors |= _mtp_extras(config, index, rnd, head, embed)
    return tensors


def is_block_quantised(name: str) -> bool:
    """Whether an FP8 checkpoint stores this weight as FP8 blocks; norms, embeddings, router and head stay."""
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight"))


def quantise_blocks(weight: Tensor, block: int = 128) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn weight and float32 weight_scale_inv [⌈rows/block⌉, ⌈columns/block⌉]."""
    rows, columns = weight.shape
    scale = torch.zeros(math.ceil(rows / block), math.ceil(columns / block))
    quantised = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            part = (slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
            scale[i, j] = weight[part].abs().max() / 448.0
            quantised[part] = (weight[part] / scale[i, j]).to(torch.float8_e4m3fn)
    return quantised, scale


def store_dtypes(config: Config, tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors as a checkpoint stores them: in `dtype`, or as FP8 blocks when the config says so."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "quantization_config" in config and is_block_quantised(name):
            stored[name], stored[name.replace(".weight", ".weight_scale_inv")] = quantise_blocks(tensor)
        else:
            stored[name] = tensor.to(torch.float32 if "correction_bias" in name else dtype).contiguous()
    return stored


def write_tensors(path: Path, tensors: dict[str, Tensor], shards: int = 1) -> None:
    """model.safetensors, or `shards` files with an index."""
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return
    names = sorted(tensors)
    files = {
        name: f"model-{i * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        save_file({name: tensors[name] for name in names if files[name] == file}, path / file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(path: Path) -> None:
    """A byte-level tokenizer (id = byte, specials from 256) and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = {char: byte for byte, char in _byte_characters().items()}
    tokenizer = Tokenizer(models.BPE(vocab={char: order[char] for char in alphabet}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, special="think" not in text, normalized=False) for text in SPECIALS])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "add_bos_token": True,
        "chat_template": CHAT_TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(plain))
    return table


def make_checkpoint(
    path: Path,
    variant: str = "v3",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    tokenizer: bool = False,
    **overrides: Any,
) -> Path:
    """Write config.json and weights (and a byte-level tokenizer) to `path`; `overrides` replace config keys."""
    path.mkdir(parents=True, exist_ok=True)
    config = make_config(variant, **overrides)
    (path / "config.json").write_text(json.dumps(config, indent=1))
    write_tensors(path, store_dtypes(config, make_tensors(config, seed), dtype), shards)
    if tokenizer:
        write_tokenizer(path)
    return path
