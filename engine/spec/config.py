"""The settings of one engine, with their defaults and the reasons a value is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.spec.errors import ConfigError

Dtype = Literal["float32", "bfloat16"]
Kernels = Literal["auto", "cpu", "reference"]
QUANTIZATIONS = ("auto", "none", "int8", "int4")  # or the path of a policy file
_AT_LEAST_ONE = (
    "max_num_seqs", "max_num_batched_tokens", "block_size",
    "tensor_parallel_size", "expert_parallel_size", "pipeline_parallel_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All that a core needs to know to serve one model.

    Sizes are in tokens unless the name says bytes; durations are in milliseconds or seconds as named.
    """

    model: str  # directory of the checkpoint
    dtype: Dtype = "bfloat16"
    max_model_len: int = 0  # 0: what the checkpoint says
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    long_prefill_threshold: int = 0  # most tokens of one prompt in a step; 0: the whole budget
    block_size: int = 16
    kv_cache_tokens: int = 0  # 0: from kv_cache_ratio of the free memory, at most 64 × max_model_len
    kv_cache_ratio: float = 0.3
    enable_prefix_cache: bool = True
    reuse_output_blocks: bool = False
    max_queue: int = 0  # waiting sequences; 0: 4 × max_num_seqs
    target_itl_ms: float = 0.0  # prompts are cut so that running streams get their next token within this; 0: off
    max_queue_delay_ms: int = 0  # hold waiting requests up to this long to fill preferred_batch_size
    preferred_batch_size: int = 0  # 0: off
    queue_timeout_s: float = 60.0  # a request that waits longer is refused with 503
    threads: int = 0  # 0: usable cores
    load_format: Literal["safetensors", "dummy"] = "safetensors"
    kernels: Kernels = "auto"  # cpu: compiled for this machine; reference: torch; auto: cpu where it can be had
    quantization: str = "auto"  # none, int8, int4, a policy file; auto: what the checkpoint says (engine.spec.policy)
    tensor_parallel_size: int = 1  # ranks among which heads, inner sizes and the vocabulary are divided
    expert_parallel_size: int = 1  # ranks among which the routed experts are divided
    pipeline_parallel_size: int = 1  # ranks among which the layers are divided

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("max_model_len", "kv_cache_tokens", "max_queue", "max_queue_delay_ms", "threads", "target_itl_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 (automatic or off) or positive")
        if not 0.0 < self.kv_cache_ratio <= 0.95:
            raise ConfigError(f"kv_cache_ratio is {self.kv_cache_ratio}; it must lie in (0, 0.95], for example 0.3")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {self.dtype!r}; choose float32 or bfloat16")
        if self.quantization not in QUANTIZATIONS and not self.quantization.endswith(".json"):
            raise ConfigError(
                f"quantization is {self.quantization!r}; choose {', '.join(QUANTIZATIONS)} or name a policy file"
            )

    @property
    def world_size(self) -> int:
        """Ranks that compute one replica."""
        return self.tensor_parallel_size * self.expert_parallel_size * self.pipeline_parallel_size

    @property
    def queue_limit(self) -> int:
        """Most sequences that may wait."""
        return self.max_queue or 4 * self.max_num_seqs
