"""The published names and shapes of every tensor that a checkpoint of a given spec must hold."""

from __future__ import annotations

import re

from engine.spec.model import ModelSpec

Shapes = dict[str, tuple[int, ...]]

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def expected_shapes(spec: ModelSpec) -> Shapes:
    """Shape of each tensor the model is built from, by name; scales of FP8 blocks and MTP layers are not listed."""
    hidden = spec.hidden_size
    shapes: Shapes = {"model.embed_tokens.weight": (spec.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not spec.tied:
        shapes["lm_head.weight"] = (spec.vocab_size, hidden)
    for layer in range(spec.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        shapes |= {f"{prefix}self_attn.{name}": shape for name, shape in _attention(spec).items()}
        inner = mlp_shapes(hidden, spec.dense_inner) if spec.is_dense(layer) else _experts(spec)
        shapes |= {f"{prefix}mlp.{name}": shape for name, shape in inner.items()}
    return shapes


def _attention(spec: ModelSpec) -> Shapes:
    query = spec.num_heads * (spec.nope_dim + spec.rope_dim)
    shapes: Shapes = {
        "kv_a_proj_with_mqa.weight": (spec.latent_dim, spec.hidden_size),
        "kv_a_layernorm.weight": (spec.kv_rank,),
        "kv_b_proj.weight": (spec.num_heads * (spec.nope_dim + spec.value_dim), spec.kv_rank),
        "o_proj.weight": (spec.hidden_size, spec.num_heads * spec.value_dim),
    }
    if not spec.q_rank:
        return {**shapes, "q_proj.weight": (query, spec.hidden_size)}
    return {
        **shapes,
        "q_a_proj.weight": (spec.q_rank, spec.hidden_size),
        "q_a_layernorm.weight": (spec.q_rank,),
        "q_b_proj.weight": (query, spec.q_rank),
    }


def mlp_shapes(hidden: int, inner: int) -> Shapes:
    """Shapes of a SwiGLU MLP."""
    return {
        "gate_proj.weight": (inner, hidden),
        "up_proj.weight": (inner, hidden),
        "down_proj.weight": (hidden, inner),
    }


def _experts(spec: ModelSpec) -> Shapes:
    hidden, inner = spec.hidden_size, spec.expert_inner
    shapes: Shapes = {"gate.weight": (spec.router.experts, hidden)}
    if spec.router.method == "noaux_tc":
        shapes["gate.e_score_correction_bias"] = (spec.router.experts,)
    for expert in range(spec.router.experts):
        shapes |= {f"experts.{expert}.{name}": shape for name, shape in mlp_shapes(hidden, inner).items()}
    if spec.shared_experts:
        shared = mlp_shapes(hidden, inner * spec.shared_experts)
        shapes |= {f"shared_experts.{name}": shape for name, shape in shared.items()}
    return shapes


def is_mtp(name: str, spec: ModelSpec) -> bool:
    """Whether a tensor belongs to a multi-token-prediction layer, which lies after the last decoder layer."""
    found = _LAYER.match(name)
    return found is not None and spec.num_layers <= int(found[1]) < spec.num_layers + spec.mtp_layers


def is_redundant(name: str, spec: ModelSpec) -> bool:
    """Tensors that some exporters write although they follow from the rest."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tied and name == "lm_head.weight")
