"""What a checkpoint is, read from its config.json: every dimension and rule the model's arithmetic needs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from engine.spec import compressed
from engine.spec.compressed import Compressed
from engine.spec.errors import CheckpointError

Scoring = Literal["softmax", "sigmoid"]
TopkMethod = Literal["greedy", "group_limited_greedy", "noaux_tc"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding; `factor` 1 means plain RoPE, more means YaRN over `original_positions`."""

    theta: float
    factor: float = 1.0
    original_positions: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0  # 0: absent
    mscale_all_dim: float = 0.0  # 0: absent
    attention_factor: float = 0.0  # 0: derived from the mscales
    truncate: bool = True
    yarn: bool = False

    @property
    def cos_sin_scale(self) -> float:
        """What cos and sin are multiplied by: m(mscale) / m(mscale_all_dim), m(x) = 0.1·x·ln(factor) + 1."""
        if not self.yarn:
            return 1.0
        if self.attention_factor:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor, 1.0)

    @property
    def score_scale(self) -> float:
        """What the softmax scale is multiplied by: m(mscale_all_dim)²."""
        return _mscale(self.factor, self.mscale_all_dim) ** 2 if self.yarn and self.mscale_all_dim else 1.0


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """How tokens choose experts."""

    experts: int
    top_k: int
    scoring: Scoring
    method: TopkMethod
    groups: int = 1
    top_groups: int = 1
    normalise: bool = False  # weights of the chosen sum to 1 before scaling
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All dimensions of one model. Sizes are numbers of values unless the name says otherwise."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    dense_layers: int  # the first layers have a plain MLP
    num_heads: int
    nope_dim: int  # of a query or key head, without position
    rope_dim: int  # of a query head and of the shared key, with position
    value_dim: int
    kv_rank: int
    q_rank: int  # 0: queries are projected directly
    dense_inner: int
    expert_inner: int
    shared_experts: int
    router: RouterSpec
    rope: RopeSpec
    max_positions: int
    rms_eps: float
    tied: bool  # the head is the embedding
    mtp_layers: int
    fp8_block: tuple[int, int] | None  # rows, columns of a block that shares a scale
    compressed: Compressed | None  # whole numbers with scales, as compressed-tensors has them
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def latent_dim(self) -> int:
        """Values cached per token and layer: the normed latent and the rotated shared key."""
        return self.kv_rank + self.rope_dim

    @property
    def softmax_scale(self) -> float:
        """Multiplier of attention scores, YaRN's share included."""
        return (self.nope_dim + self.rope_dim) ** -0.5 * self.rope.score_scale

    def is_dense(self, layer: int) -> bool:
        """Whether a layer has a plain MLP instead of experts."""
        return layer < self.dense_layers


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


class _Keys:
    """Typed access to a config that names the key in every refusal."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def refuse(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {key} is {self._values.get(key)!r}; {why}")

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"a whole number of at least {least} is needed")
        if value < least:
            raise self.refuse(key, f"it must be at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(key, "a finite number is needed")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false is needed")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.get(key, default)
        if value not in allowed:
            raise self.refuse(key, f"supported: {', '.join(allowed)}")
        return cast("str", value)

    def only(self, key: str, value: Any) -> None:
        """Refuse any value but `value`; an absent key is fine."""
        if self.get(key, value) != value:
            raise self.refuse(key, f"only {value!r} is supported")


def read_spec(model_dir: str | Path) -> ModelSpec:
    """ModelSpec of a checkpoint directory. Raises CheckpointError naming the file, and the key when one is wrong."""
    path = Path(model_dir) / "config.json"
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; a checkpoint directory holds config.json and *.safetensors"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return spec_from_config(cast("dict[str, Any]", values), str(path))


def spec_from_config(values: dict[str, Any], where: str = "config.json") -> ModelSpec:
    """ModelSpec of a config in the published format; refuses what the arithmetic does not know, by key."""
    keys = _Keys(values, where)
    architecture = keys.choice("model_type", ("deepseek_v2", "deepseek_v3"))
    for key, value in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("moe_layer_freq", 1),
        ("rope_interleave", True),
    ):
        keys.only(key, value)
    heads, layers = keys.size("num_attention_heads"), keys.size("num_hidden_layers")
    if keys.size("num_key_value_heads", heads) != heads:
        raise keys.refuse("num_key_value_heads", f"latent attention needs num_attention_heads ({heads})")
    rope_dim = keys.size("qk_rope_head_dim", least=2)
    if rope_dim % 2:
        raise keys.refuse("qk_rope_head_dim", "it must be even")
    return ModelSpec(
        architecture=architecture,
        vocab_size=keys.size("vocab_size"),
        hidden_size=keys.size("hidden_size"),
        num_layers=layers,
        dense_layers=min(layers, keys.size("first_k_dense_replace", 0, least=0)),
        num_heads=heads,
        nope_dim=keys.size("qk_nope_head_dim"),
        rope_dim=rope_dim,
        value_dim=keys.size("v_head_dim"),
        kv_rank=keys.size("kv_lora_rank"),
        q_rank=keys.size("q_lora_rank", 0, least=0),
        dense_inner=keys.size("intermediate_size"),
        expert_inner=keys.size("moe_intermediate_size"),
        shared_experts=keys.size("n_shared_experts", 0, least=0),
        router=_router(keys, architecture),
        rope=_rope(keys),
        max_positions=keys.size("max_position_embeddings"),
        rms_eps=keys.number("rms_norm_eps", 1e-6),
        tied=keys.flag("tie_word_embeddings", False),
        mtp_layers=keys.size("num_nextn_predict_layers", keys.get("num_mtp_layers", 0), least=0),
        fp8_block=_fp8_block(keys),
        compressed=_compressed(keys),
        bos_token_id=keys.get("bos_token_id"),
        eos_token_ids=_token_ids(keys, "eos_token_id"),
    )


def _router(keys: _Keys, architecture: str) -> RouterSpec:
    is_v3 = architecture == "deepseek_v3"
    methods = ("noaux_tc",) if is_v3 else ("greedy", "group_limited_greedy")
    method = cast("TopkMethod", keys.choice("topk_method", methods, methods[0]))
    scoring = cast("Scoring", keys.choice(*_scoring(is_v3)))
    experts, top_k = keys.size("n_routed_experts"), keys.size("num_experts_per_tok")
    groups = keys.size("n_group", 1) if method != "greedy" else 1
    top_groups = keys.size("topk_group", 1) if method != "greedy" else 1
    if experts % groups:
        raise keys.refuse("n_group", f"it must divide n_routed_experts ({experts})")
    if top_groups > groups:
        raise keys.refuse("topk_group", f"it cannot exceed n_group ({groups})")
    if method == "noaux_tc" and experts // groups < 2:
        raise keys.refuse("n_group", "each group needs at least 2 experts, whose best two score it")
    if top_k > experts // groups * top_groups:
        raise keys.refuse("num_experts_per_tok", f"topk_group leaves only {experts // groups * top_groups} experts")
    normalise = keys.flag("norm_topk_prob", is_v3)
    if normalise and not is_v3:
        raise keys.refuse("norm_topk_prob", "only false is supported with deepseek_v2")
    return RouterSpec(
        experts, top_k, scoring, method, groups, top_groups, normalise, keys.number("routed_scaling_factor", 1.0)
    )


def _scoring(is_v3: bool) -> tuple[str, tuple[str, ...], str]:
    scoring = "sigmoid" if is_v3 else "softmax"
    return "scoring_func", (scoring,), scoring


def _rope(keys: _Keys) -> RopeSpec:
    """Both spellings: `rope_theta` + `rope_scaling`, and the later `rope_parameters` that holds them together."""
    name = "rope_parameters" if keys.get("rope_parameters") else "rope_scaling"
    found = keys.get(name, {})
    if not isinstance(found, dict):
        raise keys.refuse(name, "an object is needed")
    inner = _Keys(cast("dict[str, Any]", found), f"{keys.where}: {name}")
    theta = inner.number("rope_theta", keys.number("rope_theta", 10000.0))
    kind = inner.choice("rope_type" if inner.get("rope_type") else "type", ("default", "yarn"), "default")
    if kind == "default":
        return RopeSpec(theta)
    original = inner.size("original_max_position_embeddings")
    return RopeSpec(
        theta,
        factor=inner.number("factor", keys.size("max_position_embeddings") / original),
        original_positions=original,
        beta_fast=inner.number("beta_fast", 32.0),
        beta_slow=inner.number("beta_slow", 1.0),
        mscale=inner.number("mscale", 0.0),
        mscale_all_dim=inner.number("mscale_all_dim", 0.0),
        attention_factor=inner.number("attention_factor", 0.0),
        truncate=inner.flag("truncate", True),
        yarn=True,
    )


def _fp8_block(keys: _Keys) -> tuple[int, int] | None:
    found = keys.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, dict):
        raise keys.refuse("quantization_config", "an object is needed")
    inner = _Keys(cast("dict[str, Any]", found), f"{keys.where}: quantization_config")
    if inner.choice("quant_method", ("fp8", compressed.METHOD)) != "fp8":
        return None
    inner.only("fmt", "e4m3")
    block = inner.get("weight_block_size")
    if not isinstance(block, list) or len(cast("list[Any]", block)) != 2:
        raise inner.refuse("weight_block_size", "two whole numbers are needed, such as [128, 128]")
    rows, columns = cast("list[Any]", block)
    if not (isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0):
        raise inner.refuse("weight_block_size", "two positive whole numbers are needed, such as [128, 128]")
    return rows, columns


def _compressed(keys: _Keys) -> Compressed | None:
    found = keys.get("quantization_config")
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("quant_method") != compressed.METHOD:
        return None
    return compressed.parse(cast("dict[str, Any]", found), f"{keys.where}: quantization_config")


def _token_ids(keys: _Keys, key: str) -> tuple[int, ...]:
    value = keys.get(key, [])
    found = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(item, int) for item in found):
        raise keys.refuse(key, "a token id or a list of them is needed")
    return tuple(cast("list[int]", found))
