"""ModelSpec: published configs of every variant are understood, everything unknown is refused by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.spec.errors import CheckpointError
from engine.spec.model import read_spec, spec_from_config
from tests.engine.checkpoints import EOS, VARIANTS, make_config

V3_YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_read(variant: str) -> None:
    """Dimensions arrive where the layers look for them."""
    spec = spec_from_config(VARIANTS[variant])
    config = VARIANTS[variant]
    assert spec.latent_dim == config["kv_lora_rank"] + config["qk_rope_head_dim"]
    assert spec.q_rank == (config["q_lora_rank"] or 0)
    assert spec.router.method == config["topk_method"]
    assert spec.eos_token_ids == (EOS,)
    assert [spec.is_dense(i) for i in range(3)] == [True, False, False]
    assert spec.mtp_layers == (1 if variant == "v3-mtp" else 0)
    assert spec.fp8_block == ((128, 128) if variant == "v3-fp8" else None)


def test_yarn_scales_are_the_published_ones() -> None:
    """V3: scores × 1.8739, cos and sin unchanged; V2-Lite (0.707): × 1.5896."""
    v3 = spec_from_config(make_config("v3", rope_scaling=V3_YARN))
    assert v3.rope.score_scale == pytest.approx(1.8739, abs=1e-4)
    assert v3.rope.cos_sin_scale == 1.0
    lite = spec_from_config(
        make_config("v2-greedy", rope_scaling={**V3_YARN, "mscale": 0.707, "mscale_all_dim": 0.707})
    )
    assert lite.rope.score_scale == pytest.approx(1.5896, abs=1e-4)
    assert lite.softmax_scale == pytest.approx((16 + 8) ** -0.5 * 1.5896, abs=1e-4)


def test_both_spellings_of_rope_are_read() -> None:
    """`rope_parameters` holds what `rope_theta` and `rope_scaling` held."""
    old = spec_from_config(make_config("v3", rope_scaling=V3_YARN, rope_theta=5000.0))
    parameters = {"rope_type": "yarn", "rope_theta": 5000.0, **{k: v for k, v in V3_YARN.items() if k != "type"}}
    assert spec_from_config(make_config("v3", rope_scaling=None, rope_parameters=parameters)) == old
    plain = spec_from_config(make_config("v3", rope_parameters={"rope_type": "default", "rope_theta": 123.0}))
    assert (plain.rope.theta, plain.rope.yarn) == (123.0, False)


def test_several_end_tokens() -> None:
    """eos_token_id may be a list, or absent."""
    assert spec_from_config(make_config(eos_token_id=[1, 5])).eos_token_ids == (1, 5)
    assert spec_from_config(make_config(eos_token_id=None)).eos_token_ids == ()


@pytest.mark.parametrize(
    ("variant", "key", "value"),
    [
        ("v3", "model_type", "llama"),
        ("v3", "model_type", None),
        ("v3", "hidden_act", "gelu"),
        ("v3", "attention_bias", True),
        ("v3", "moe_layer_freq", 2),
        ("v3", "rope_interleave", False),
        ("v3", "num_key_value_heads", 2),
        ("v3", "qk_rope_head_dim", 7),
        ("v3", "hidden_size", "64"),
        ("v3", "hidden_size", 0),
        ("v3", "vocab_size", None),
        ("v3", "kv_lora_rank", 1.5),
        ("v3", "topk_method", "greedy"),
        ("v2-group", "topk_method", "noaux_tc"),
        ("v3", "scoring_func", "softmax"),
        ("v2-greedy", "scoring_func", "sigmoid"),
        ("v2-greedy", "norm_topk_prob", True),
        ("v3", "n_group", 3),
        ("v3", "n_group", 8),
        ("v3", "topk_group", 5),
        ("v3", "num_experts_per_tok", 5),
        ("v3", "routed_scaling_factor", "x"),
        ("v3", "rms_norm_eps", float("nan")),
        ("v3", "eos_token_id", "</s>"),
        ("v3", "tie_word_embeddings", 1),
    ],
)
def test_what_is_not_known_is_refused_by_key(variant: str, key: str, value: Any) -> None:
    """The message names the file, the key and the value."""
    with pytest.raises(CheckpointError, match=f"^config.json: {key} is ") as caught:
        spec_from_config(make_config(variant, **{key: value}))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "type"),
        ("rope_scaling", {"rope_type": "llama3"}, "rope_type"),
        ("rope_scaling", {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
        ("quantization_config", {"quant_method": "gptq"}, "quant_method"),
        ("quantization_config", {"quant_method": "fp8"}, "weight_block_size"),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [128, 0]}, "weight_block_size"),
        ("quantization_config", {"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]}, "fmt"),
    ],
)
def test_nested_keys_are_named_with_their_section(section: str, value: dict[str, Any], key: str) -> None:
    """A refusal inside an object names both keys."""
    with pytest.raises(CheckpointError, match=f"^config.json: {section}: {key} is "):
        spec_from_config(make_config("v3", **{section: value}))


def test_unreadable_configs_are_refused(tmp_path: Path) -> None:
    """Missing, not JSON and not an object are three different messages."""
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(make_config("v3")))
    assert read_spec(tmp_path) == spec_from_config(make_config("v3"))
