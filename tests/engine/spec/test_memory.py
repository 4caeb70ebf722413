"""The memory plan: published sizes, and refusals whose proposed value really fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError, ConfigError
from engine.spec.memory import (
    GIB,
    cache_dtype,
    holds_float32,
    latent_bytes_per_token,
    plan_memory,
    weight_bytes,
    weight_counts,
)
from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.policy import NAMED
from tests.engine.checkpoints import make_config

CONFIG = EngineConfig("model")


def _spec() -> ModelSpec:
    return spec_from_config(make_config("v3"))


def _v2_lite() -> ModelSpec:
    return spec_from_config(
        make_config(
            "v2-greedy",
            vocab_size=102400,
            hidden_size=2048,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            num_hidden_layers=27,
            num_attention_heads=16,
            num_key_value_heads=16,
            n_routed_experts=64,
            num_experts_per_tok=6,
            kv_lora_rank=512,
            qk_rope_head_dim=64,
            qk_nope_head_dim=128,
            v_head_dim=128,
            max_position_embeddings=163840,
        )
    )


def test_v2_lite_has_its_published_size() -> None:
    """15.7 billion parameters, 30.4 KiB of 2-byte latents per token, float16 cache and bfloat16 products."""
    spec = _v2_lite()
    assert weight_counts(spec).total == pytest.approx(15.7e9, rel=0.005)
    assert latent_bytes_per_token(spec, "bfloat16") == 27 * 576 * 2
    assert cache_dtype(spec, "bfloat16") == "float16"
    assert cache_dtype(spec, "float32") == "float32"
    assert not holds_float32(spec, "bfloat16")
    assert weight_bytes(spec, "bfloat16") == pytest.approx(31.4e9 + 27 * 512 * 16 * 256 * 4, rel=0.01)


def test_a_small_model_is_held_in_float32() -> None:
    """Its latents and its weights, also when the weights are rounded to bfloat16."""
    assert cache_dtype(_spec(), "bfloat16") == "float32"
    assert holds_float32(_spec(), "bfloat16")


def test_the_plan_adds_up() -> None:
    """Blocks × block size = tokens, tokens × latent bytes = cache, and all of it below what is free."""
    plan = plan_memory(_spec(), CONFIG, 4 * GIB)
    assert plan.cache_tokens == plan.num_blocks * CONFIG.block_size
    assert plan.cache == plan.cache_tokens * latent_bytes_per_token(_spec(), CONFIG.dtype)
    assert plan.total == plan.weights + plan.cache + plan.workspace <= 4 * GIB
    assert plan.cache_tokens == 64 * plan.max_model_len  # the ratio would give more than 64 full sequences
    assert plan.max_model_len == 512


def test_a_wish_for_cache_is_granted_or_refused_with_a_value_that_fits() -> None:
    """kv_cache_tokens rounds up to whole blocks; too much of it names the most that fits."""
    assert plan_memory(_spec(), replace(CONFIG, kv_cache_tokens=1001), GIB).cache_tokens == 1008
    wish = replace(CONFIG, kv_cache_tokens=10**9)
    with pytest.raises(CapacityError, match=r"(\d+) would fit") as caught:
        plan_memory(_spec(), wish, GIB)
    found = re.search(r"(\d+) would fit", str(caught.value))
    assert found is not None
    assert plan_memory(_spec(), replace(CONFIG, kv_cache_tokens=int(found[1])), GIB).total <= GIB


def test_a_long_sequence_is_refused_with_a_length_that_fits() -> None:
    """max_model_len must fit into the cache."""
    config = replace(CONFIG, max_model_len=400, kv_cache_tokens=160)
    with pytest.raises(CapacityError, match="max_model_len 160 would fit"):
        plan_memory(_spec(), config, GIB)
    assert plan_memory(_spec(), replace(config, max_model_len=160), GIB).max_model_len == 160
    assert plan_memory(_spec(), replace(config, max_model_len=0), GIB).max_model_len == 160


def test_more_positions_than_the_checkpoint_has() -> None:
    """A ConfigError, since no memory helps."""
    with pytest.raises(ConfigError, match="choose at most 512"):
        plan_memory(_spec(), replace(CONFIG, max_model_len=513), GIB)


def test_weights_that_do_not_fit_say_how_much_is_missing() -> None:
    """Freeing the stated amount makes it fit."""
    with pytest.raises(CapacityError, match=r"free (\d+\.\d+) GiB more") as caught:
        plan_memory(_v2_lite(), CONFIG, 8 * GIB)
    found = re.search(r"free (\d+\.\d+) GiB more", str(caught.value))
    assert found is not None
    plan_memory(_v2_lite(), CONFIG, 8 * GIB + int(float(found[1]) * GIB))


def test_a_policy_that_fits_is_named() -> None:
    """Weights that do not fit as they are, but would quantised: the refusal says how, and it is true."""
    with pytest.raises(CapacityError, match=r"--quantization (\w+) \((\d+\.\d+) GiB") as caught:
        plan_memory(_v2_lite(), CONFIG, 20 * GIB, packed=True)
    found = re.search(r"--quantization (\w+)", str(caught.value))
    assert found is not None
    plan = plan_memory(_v2_lite(), CONFIG, 20 * GIB, NAMED[found[1]], packed=True)
    assert plan.total <= 20 * GIB
    assert dict(plan.formats)["int8"] > 14 * GIB
    assert f"int8 {dict(plan.formats)['int8'] / GIB:.2f}" in str(plan)
    assert sum(dict(plan.formats).values()) == plan.weights


def test_v2_lite_in_four_bits_leaves_room() -> None:
    """Routed experts in four bits and the rest in eight: below 10 GiB, a third of 16 bits."""
    assert 8 * GIB < weight_bytes(_v2_lite(), "bfloat16", NAMED["int4"], packed=True) < 10 * GIB
