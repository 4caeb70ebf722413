"""Memory of a model from its config.json: bytes of weights, and of cache per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

Shape = Mapping[str, object]

_LLAMA: dict[str, object] = {"model_type": "llama"}


def _dense(  # noqa: PLR0913, PLR0917 - a shape is these numbers
    layers: int, hidden: int, heads: int, kv: int, inter: int, vocab: int, head_dim: int = 0
) -> dict[str, object]:
    return _LLAMA | {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": inter, "vocab_size": vocab, "head_dim": head_dim or hidden // heads,
    }  # fmt: skip


_V3: dict[str, object] = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256,
    "moe_intermediate_size": 2048, "n_shared_experts": 1, "first_k_dense_replace": 3, "intermediate_size": 18432,
    "vocab_size": 129280, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip
_V2: dict[str, object] = _V3 | {
    "model_type": "deepseek_v2", "num_hidden_layers": 60, "hidden_size": 5120, "n_routed_experts": 160, "moe_intermediate_size": 1536,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "intermediate_size": 12288, "vocab_size": 102400, "quantization_config": None,
}  # fmt: skip
_V2_LITE: dict[str, object] = _V2 | {
    "num_hidden_layers": 27, "hidden_size": 2048, "num_attention_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
    "moe_intermediate_size": 1408, "intermediate_size": 10944,
}  # fmt: skip

# last part of a model's name, lower case → shape; longest match wins
KNOWN: dict[str, dict[str, object]] = {
    "deepseek-v3": _V3, "deepseek-r1": _V3, "deepseek-r1-0528": _V3, "deepseek-v2-lite": _V2_LITE, "deepseek-coder-v2-lite": _V2_LITE,
    "deepseek-v2": _V2, "deepseek-v2.5": _V2, "deepseek-coder-v2-instruct": _V2,
    "llama-3.1-8b": _dense(32, 4096, 32, 8, 14336, 128256), "llama-3-8b": _dense(32, 4096, 32, 8, 14336, 128256),
    "meta-llama-3-8b": _dense(32, 4096, 32, 8, 14336, 128256), "deepseek-r1-distill-llama-8b": _dense(32, 4096, 32, 8, 14336, 128256),
    "llama-3.1-70b": _dense(80, 8192, 64, 8, 28672, 128256), "llama-3.3-70b": _dense(80, 8192, 64, 8, 28672, 128256),
    "llama-3-70b": _dense(80, 8192, 64, 8, 28672, 128256), "deepseek-r1-distill-llama-70b": _dense(80, 8192, 64, 8, 28672, 128256),
    "llama-2-7b": _dense(32, 4096, 32, 32, 11008, 32000), "llama-2-13b": _dense(40, 5120, 40, 40, 13824, 32000),
    "llama-2-70b": _dense(80, 8192, 64, 8, 28672, 32000), "mistral-7b": _dense(32, 4096, 32, 8, 14336, 32768),
    "qwen2.5-7b": _dense(28, 3584, 28, 4, 18944, 152064), "qwen2.5-14b": _dense(48, 5120, 40, 8, 13824, 152064),
    "qwen2.5-32b": _dense(64, 5120, 40, 8, 27648, 152064), "qwen2.5-72b": _dense(80, 8192, 64, 8, 29568, 152064),
    "qwq-32b": _dense(64, 5120, 40, 8, 27648, 152064), "deepseek-r1-distill-qwen-7b": _dense(28, 3584, 28, 4, 18944, 152064),
    "deepseek-r1-distill-qwen-14b": _dense(48, 5120, 40, 8, 13824, 152064), "deepseek-r1-distill-qwen-32b": _dense(64, 5120, 40, 8, 27648, 152064),
    "qwen3-8b": _dense(36, 4096, 32, 8, 12288, 151936, 128), "qwen3-14b": _dense(40, 5120, 40, 8, 17408, 151936, 128),
    "qwen3-32b": _dense(64, 5120, 64, 8, 25600, 151936, 128),
}  # fmt: skip

# names of cards → GiB as the driver reports them (a little below the label)
CARDS: tuple[tuple[str, float], ...] = (
    ("H200", 139.8), ("B200", 178.3), ("H100 NVL", 93.0), ("H100", 79.1), ("H800", 79.1), ("H20", 95.1), ("A100-SXM4-80GB", 79.2), ("A100 80GB", 79.2), ("A100-80", 79.2),
    ("A100-PCIE-40GB", 39.4), ("A100-SXM4-40GB", 39.4), ("A800", 79.2), ("L40S", 44.4), ("L40", 44.4), ("L20", 44.5), ("L4", 22.0), ("A40", 44.4), ("A10G", 22.1), ("A10", 22.1),
    ("RTX 4090", 23.5), ("RTX 3090", 23.6), ("RTX 5090", 31.4), ("RTX A6000", 47.4), ("RTX 6000 Ada", 47.4), ("V100-SXM2-32GB", 31.7), ("V100-SXM2-16GB", 15.8), ("Tesla T4", 14.6),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model needs. Bytes; `is_mla`: the cache is not divided by tensor parallel."""

    weights: int
    kv_per_token: int
    kv_heads: int
    heads: int
    is_mla: bool
    splits: tuple[int, ...] = ()  # widths that tensor parallel divides into whole blocks of the quantisation
    block: int = 1
    width: float = 2.0  # bytes of a parameter

    def divides(self, parallel: int) -> bool:
        """True when tensor parallel of that size leaves whole heads and whole blocks."""
        return self.heads % parallel == 0 and all(width % (parallel * self.block) == 0 for width in self.splits)


def known(model: str) -> Shape | None:
    """The shape of a well-known model by name."""
    tail = model.rstrip("/").rsplit("/", 1)[-1].lower()
    names = [name for name in KNOWN if tail.startswith((name, f"meta-{name}"))]
    if not names or any(
        word in tail for word in ("awq", "gptq", "int4", "int8", "w8a8", "w4a16", "gguf", "bnb", "4bit", "8bit", "fp8")
    ):
        return None
    best = max(names, key=len)
    rest = tail[tail.find(best) + len(best) :]
    return KNOWN[best] if not rest or not rest[0].isalnum() else None


def _int(shape: Shape, *names: str) -> int:
    for name in names:
        value = shape.get(name)
        if isinstance(value, int | float) and value > 0:
            return int(value)
    return 0


def memory(shape: Shape, *, kv_bytes: float = 2.0) -> Memory | None:
    """Weights and cache of a transformer; None for architectures whose memory is not this sum (Mamba, hybrids, windows)."""
    if any(
        key in shape
        for key in ("ssm_cfg", "mamba_d_state", "layers_block_type", "hybrid_override_pattern", "linear_num_key_heads")
    ):
        return None
    inner = shape.get("text_config")
    if isinstance(inner, dict) and "num_hidden_layers" in inner:
        shape = cast("Shape", inner)
    layers, hidden, heads = (
        _int(shape, "num_hidden_layers", "n_layer"),
        _int(shape, "hidden_size", "n_embd"),
        _int(shape, "num_attention_heads", "n_head"),
    )
    if not layers or not hidden or not heads:
        return None
    rank = _int(shape, "kv_lora_rank")
    kv_heads = _int(shape, "num_key_value_heads") or heads
    head_dim = _int(shape, "head_dim") or hidden // heads
    per_token = (
        layers * (rank + _int(shape, "qk_rope_head_dim")) * kv_bytes
        if rank
        else 2 * layers * kv_heads * head_dim * kv_bytes
    )
    splits, block = _blocks(shape)
    weights = int(_parameters(shape, layers, hidden) * _width(shape))
    return Memory(weights, int(per_token), kv_heads, heads, bool(rank), splits, block, _width(shape))


def _blocks(shape: Shape) -> tuple[tuple[int, ...], int]:
    """Widths that must be cut into whole blocks, and the block, for FP8 weights with a scale a block; else nothing."""
    quant = shape.get("quantization_config")
    if not isinstance(quant, dict) or cast("Shape", quant).get("quant_method") != "fp8":
        return (), 1
    block = cast("Shape", quant).get("weight_block_size")
    if not isinstance(block, list) or not block or not isinstance(block[0], int) or block[0] < 1:
        return (), 1
    widths = (_int(shape, "intermediate_size"), _int(shape, "moe_intermediate_size"))
    return tuple(width for width in widths if width), block[0]


def _attention(shape: Shape, hidden: int) -> int:
    heads = _int(shape, "num_attention_heads", "n_head")
    rank, rope = _int(shape, "kv_lora_rank"), _int(shape, "qk_rope_head_dim")
    if rank:
        nope, value, q_rank = _int(shape, "qk_nope_head_dim"), _int(shape, "v_head_dim"), _int(shape, "q_lora_rank")
        query = q_rank * (hidden + heads * (nope + rope)) if q_rank else hidden * heads * (nope + rope)
        return query + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
    kv_heads = _int(shape, "num_key_value_heads") or heads
    head_dim = _int(shape, "head_dim") or hidden // heads
    return 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim


def _parameters(shape: Shape, layers: int, hidden: int) -> int:
    """Number of parameters, norms left out (they are below 0.1 %)."""
    experts = _int(shape, "n_routed_experts", "num_experts", "num_local_experts")
    wide = _int(shape, "intermediate_size", "ffn_hidden_size", "n_inner") or 4 * hidden
    dense = 3 * hidden * wide
    feed = layers * dense
    if experts:
        narrow = _int(shape, "moe_intermediate_size") or wide
        shared = _int(shape, "n_shared_experts") * narrow or _int(shape, "shared_expert_intermediate_size")
        first = min(layers, _int(shape, "first_k_dense_replace"))
        feed = first * dense + (layers - first) * (3 * hidden * (experts * narrow + shared) + hidden * experts)
    tables = 1 if shape.get("tie_word_embeddings") is True else 2
    return layers * _attention(shape, hidden) + feed + tables * _int(shape, "vocab_size") * hidden


def _width(shape: Shape) -> float:
    """Bytes of a parameter."""
    found = shape.get("quantization_config")
    if isinstance(found, dict):
        quant = cast("Shape", found)
        bits = quant.get("bits") or quant.get("w_bit")
        if isinstance(bits, int) and 2 <= bits <= 8:
            return bits / 8 * 1.06
        method = str(quant.get("quant_method", ""))
        if method in ("awq", "gptq"):
            return 0.53
        if method in ("fp8", "int8", "fbgemm_fp8"):
            return 1.01
        if method == "compressed-tensors":
            text = str(quant)
            return 0.55 if "'num_bits': 4" in text else 1.02
    return 4.0 if shape.get("torch_dtype") == "float32" or shape.get("dtype") == "float32" else 2.0


def card(text: str) -> float | None:
    """GiB of the card whose name stands in `text`."""
    return next((gib for name, gib in CARDS if name in text), None)
