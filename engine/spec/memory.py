"""Will it fit: bytes of weights, cache and workspace as arithmetic, and a value that would fit when they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.spec.config import Dtype, EngineConfig
from engine.spec.errors import CapacityError, ConfigError
from engine.spec.matrices import group_of, matrices
from engine.spec.model import ModelSpec
from engine.spec.policy import NAMED, Policy

CacheDtype = Literal["float32", "float16"]
Held = Literal["float32", "bfloat16"]

FLOAT32_CACHE_LIMIT = 16 << 10  # bytes per token over all layers; a wider latent is kept in float16
FLOAT32_WEIGHTS_LIMIT = 512 << 20  # bytes of float32 weights; a larger bfloat16 model is held in bfloat16
GIB = 1 << 30

UNQUANTISED = Policy()
_WIDTHS = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Number of parameters of each class."""

    embedding: int
    head: int
    attention: int
    dense: int
    routed: int
    shared: int
    router: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters that are loaded."""
        matrices = self.embedding + self.head + self.attention + self.dense
        return matrices + self.routed + self.shared + self.router + self.norms


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one replica takes beside the program itself, in bytes unless the name says tokens or blocks."""

    weights: int
    cache: int
    workspace: int
    cache_tokens: int
    num_blocks: int
    max_model_len: int
    cache_dtype: CacheDtype
    formats: tuple[tuple[str, int], ...] = ()  # the weights by number format, largest first

    def __str__(self) -> str:
        weights = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.formats)
        return (
            f"{self.total / GIB:.2f} GiB: weights {self.weights / GIB:.2f} ({weights}), cache {self.cache / GIB:.2f} "
            f"({self.cache_tokens} tokens in {self.cache_dtype}), workspace {self.workspace / GIB:.2f}"
        )

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.weights + self.cache + self.workspace


def weight_counts(spec: ModelSpec) -> WeightCounts:
    """Parameters by class, MTP layers left out (they are not loaded)."""
    hidden, heads = spec.hidden_size, spec.num_heads
    query = heads * (spec.nope_dim + spec.rope_dim)
    queries = spec.q_rank * (hidden + query) if spec.q_rank else hidden * query
    latent = hidden * spec.latent_dim + spec.kv_rank * heads * (spec.nope_dim + spec.value_dim)
    moe_layers = spec.num_layers - spec.dense_layers
    expert = 3 * hidden * spec.expert_inner
    return WeightCounts(
        embedding=spec.vocab_size * hidden,
        head=0 if spec.tied else spec.vocab_size * hidden,
        attention=spec.num_layers * (queries + latent + heads * spec.value_dim * hidden),
        dense=spec.dense_layers * 3 * hidden * spec.dense_inner,
        routed=moe_layers * spec.router.experts * expert,
        shared=moe_layers * spec.shared_experts * expert,
        router=moe_layers * spec.router.experts * (hidden + (spec.router.method == "noaux_tc")),
        norms=hidden + spec.num_layers * (2 * hidden + spec.kv_rank + spec.q_rank),
    )


def holds_float32(spec: ModelSpec, dtype: Dtype) -> bool:
    """Whether matrices are held in float32 (rounded to bfloat16 first when that is the dtype); larger ones are widened
    for each product."""
    return dtype == "float32" or is_small(spec)


def held_as(spec: ModelSpec, dtype: Dtype) -> Held:
    """The number format of what is not quantised."""
    return "float32" if holds_float32(spec, dtype) else "bfloat16"


def is_small(spec: ModelSpec) -> bool:
    """Whether a float32 copy of the weights is no burden; the reference then also computes on one thread."""
    return weight_counts(spec).total * 4 <= FLOAT32_WEIGHTS_LIMIT


def weight_formats(spec: ModelSpec, dtype: Dtype, policy: Policy, *, packed: bool) -> dict[str, int]:
    """Bytes of the loaded weights by number format.

    `packed`: as the compiled kernels hold them, quantised by the policy; else as the reference does, which rounds them
    by the policy but holds them unquantised. kv_b is held twice (expanded and absorbed), embedding and head once each.
    """
    counts, held = weight_counts(spec), held_as(spec, dtype)
    width = _WIDTHS[held]
    found = {held: counts.embedding * width}
    if packed:
        for matrix in matrices(spec):
            wanted = policy.of(matrix.kind, matrix.layer)
            label = held if wanted == "none" else wanted if wanted == "int8" or group_of(matrix.inputs) else "int8"
            found[label] = found.get(label, 0) + matrix.nbytes(wanted, width)
        exact = 0
    else:
        found[held] += (counts.total - counts.embedding - counts.router - counts.norms) * width
        found[held] += counts.embedding * width if spec.tied else 0
        exact = spec.num_layers * spec.kv_rank * spec.num_heads * (spec.nope_dim + spec.value_dim) * 4
    found["float32"] = found.get("float32", 0) + exact + (counts.router + counts.norms) * 4
    return found


def weight_bytes(spec: ModelSpec, dtype: Dtype, policy: Policy = UNQUANTISED, *, packed: bool = False) -> int:
    """Bytes of the loaded weights, see weight_formats."""
    return sum(weight_formats(spec, dtype, policy, packed=packed).values())


def cache_dtype(spec: ModelSpec, dtype: Dtype) -> CacheDtype:
    """float32 while a token's latents stay small or the whole model is float32, else float16."""
    wide = spec.num_layers * spec.latent_dim * 4 > FLOAT32_CACHE_LIMIT
    return "float16" if wide and dtype == "bfloat16" else "float32"


def latent_bytes_per_token(spec: ModelSpec, dtype: Dtype) -> int:
    """Cache bytes of one token over all layers."""
    width = 4 if cache_dtype(spec, dtype) == "float32" else 2
    return spec.num_layers * spec.latent_dim * width


def workspace_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Largest activations of one step: a generous sum over the widest layer, the attention tiles and the logits."""
    rows = max(config.max_num_batched_tokens, config.max_num_seqs) + 64
    query = spec.num_heads * (spec.nope_dim + spec.rope_dim)
    attention = spec.num_heads * (3 * 64 + 3 * spec.value_dim) + 3 * query
    routed = spec.router.top_k * (2 * spec.hidden_size + 3 * spec.expert_inner)
    widest = max(attention, routed, 3 * spec.dense_inner) + 6 * spec.hidden_size
    return 4 * (rows * widest + 2 * config.max_num_seqs * spec.vocab_size) + (96 << 20)


def plan_memory(
    spec: ModelSpec, config: EngineConfig, free_bytes: int, policy: Policy = UNQUANTISED, *, packed: bool = False
) -> MemoryPlan:
    """The plan for one replica on a machine with `free_bytes` to spare; policy and `packed` as in weight_formats.

    Raises ConfigError when max_model_len exceeds the checkpoint, CapacityError with the numbers and a value that fits.
    """
    if config.max_model_len > spec.max_positions:
        raise ConfigError(
            f"max_model_len is {config.max_model_len}, but the checkpoint has {spec.max_positions} positions; "
            f"choose at most {spec.max_positions}"
        )
    formats = weight_formats(spec, config.dtype, policy, packed=packed)
    weights, workspace = sum(formats.values()), workspace_bytes(spec, config)
    left = free_bytes - weights - workspace
    per_token = latent_bytes_per_token(spec, config.dtype)
    if left < per_token * config.block_size:
        missing = (weights + workspace - free_bytes) / GIB + 0.01
        raise CapacityError(
            f"weights need {weights / GIB:.2f} GiB and workspace {workspace / GIB:.2f} GiB, but only "
            f"{free_bytes / GIB:.2f} GiB are free; free {missing:.2f} GiB more, "
            f"{_smaller(spec, config, free_bytes, weights)}use fewer replicas or a smaller max_num_batched_tokens"
        )
    wanted_len = config.max_model_len or spec.max_positions
    blocks = _cache_blocks(config, wanted_len, left, per_token)
    tokens = blocks * config.block_size
    if config.max_model_len > tokens:
        raise CapacityError(
            f"max_model_len {config.max_model_len} needs {config.max_model_len * per_token / GIB:.2f} GiB of cache, "
            f"but {tokens * per_token / GIB:.2f} GiB are planned; max_model_len {tokens} would fit, "
            "or a larger kv_cache_ratio or kv_cache_tokens"
        )
    return MemoryPlan(
        weights=weights,
        cache=tokens * per_token,
        workspace=workspace,
        cache_tokens=tokens,
        num_blocks=blocks,
        max_model_len=min(wanted_len, tokens),
        cache_dtype=cache_dtype(spec, config.dtype),
        formats=tuple(sorted(formats.items(), key=lambda item: -item[1])),
    )


def _smaller(spec: ModelSpec, config: EngineConfig, free_bytes: int, weights: int) -> str:
    """The first named policy that would fit, as a piece of advice; empty when none would."""
    need = workspace_bytes(spec, config) + latent_bytes_per_token(spec, config.dtype) * config.block_size
    for name in ("int8", "int4"):
        size = weight_bytes(spec, config.dtype, NAMED[name], packed=True)
        if size < weights and size + need <= free_bytes:
            return f"use --kernels cpu --quantization {name} ({size / GIB:.2f} GiB of weights would fit), "
    return ""


def _cache_blocks(config: EngineConfig, model_len: int, left: int, per_token: int) -> int:
    fits = left // (per_token * config.block_size)
    if config.kv_cache_tokens:
        blocks = -(-config.kv_cache_tokens // config.block_size)
        if blocks > fits:
            raise CapacityError(
                f"kv_cache_tokens {config.kv_cache_tokens} needs {config.kv_cache_tokens * per_token / GIB:.2f} GiB, "
                f"but {left / GIB:.2f} GiB are left after weights and workspace; {fits * config.block_size} would fit"
            )
        return blocks
    by_ratio = int(left * config.kv_cache_ratio) // (per_token * config.block_size)
    most = -(-64 * model_len // config.block_size)
    return max(1, min(by_ratio, most))
