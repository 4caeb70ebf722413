"""The DeepSeek model on the compiled kernels.

The reference definition (engine.modeling.deepseek) calls dozens of small torch operations a layer, which cost more than
the arithmetic when few rows are computed; here a step is one call for all layers. Tests hold the two together on every
variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.kernels.cpu.library import Library
from engine.kernels.cpu.matrix import Matrix, Mlps, plain, stacked
from engine.layers.batch import StepBatch
from engine.layers.cache import LatentCache
from engine.layers.fused import AttentionWeights, ForwardWeights, FusedLayer, FusedRows
from engine.layers.rotary import Rotary
from engine.quant.policy import Format, Policy, convert
from engine.spec.errors import ConfigError
from engine.spec.model import ModelSpec

_MOST = {"kv_rank + rope_dim": 4096, "nope_dim + rope_dim": 512, "experts": 1024}  # csrc: buffers on the stack

Get = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class FusedModel:
    """A loaded model. The bits of a row's logits depend on its sequence's tokens and roles, and on nothing else.

    Kernels use as many threads as torch is set to.
    """

    spec: ModelSpec
    library: Library
    embedding: Tensor  # [vocab, hidden]
    layers: tuple[FusedLayer, ...]
    final_norm: Tensor  # [hidden]
    head: Matrix  # hidden → vocab
    rotary: Rotary
    cache_dtype: torch.dtype
    numerics: str  # everything that decides the bits of a logit
    skipped_mtp_tensors: int = 0

    def new_cache(self, num_blocks: int, block_size: int) -> LatentCache:
        """An empty cache of `num_blocks` blocks."""
        return LatentCache(len(self.layers), num_blocks, block_size, self.spec.latent_dim, self.cache_dtype)

    @torch.inference_mode()
    def forward(self, batch: StepBatch, cache: LatentCache) -> Tensor:
        """Logits float32 [S, vocab] of `batch.rows`; the latents of all rows are written to `cache`."""
        threads = torch.get_num_threads()
        rows = FusedRows(batch, cache, self.rotary, threads)
        x = self.embedding.index_select(0, rows.token_ids).float()
        self.library.layers([layer.argument for layer in self.layers], rows.argument, x, cache.layers)
        wanted = rows.in_batch_order(x).index_select(0, batch.rows)
        return self.library.linear(self.head, self.library.norm(wanted, self.final_norm, self.spec.rms_eps), threads)

    def shortened(self) -> FusedModel:
        """The same model with one layer of each kind: enough to see how this machine's arithmetic behaves."""
        kinds = {layer.has_experts: layer for layer in self.layers}
        return replace(self, layers=tuple(kinds.values()))

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices and the embedding."""
        table = self.embedding.numel() * self.embedding.element_size()
        return sum(layer.nbytes for layer in self.layers) + self.head.nbytes + table


@dataclass(frozen=True, slots=True)
class LayerBuilder:
    """Turns named tensors into fused layers: each is read, converted and dropped before the next."""

    spec: ModelSpec
    policy: Policy
    get: Get  # float32 values, rounded to the model's dtype
    exact: Get  # float32 values as the checkpoint has them

    def check(self) -> None:
        """Raises ConfigError when a dimension is beyond what the kernels hold on their stack."""
        spec = self.spec
        sizes = (spec.latent_dim, spec.nope_dim + spec.rope_dim, spec.router.experts)
        for (name, most), size in zip(_MOST.items(), sizes, strict=True):
            if size > most:
                raise ConfigError(f"{name} is {size}, the compiled kernels go up to {most}; set kernels to reference")

    def layer(self, index: int) -> FusedLayer:
        """One decoder layer."""
        prefix = f"model.layers.{index}."
        dense = self.spec.is_dense(index)
        norm = self._vector(f"{prefix}post_attention_layernorm.weight")
        if dense:
            forward = ForwardWeights(norm, self._mlps([f"{prefix}mlp."], self.policy.mlp))
        else:
            forward = self._experts(f"{prefix}mlp.", norm)
        return FusedLayer(self.spec, self._attention(prefix), forward)

    def head(self, weight: Tensor) -> Matrix:
        """hidden → vocab."""
        return convert(weight, self.policy.head)

    def _vector(self, name: str) -> Tensor:
        return self.get(name).clone(memory_format=torch.contiguous_format)

    def _attention(self, prefix: str) -> AttentionWeights:
        spec, at, wanted = self.spec, f"{prefix}self_attn.", self.policy.attention
        queries = f"{at}q_a_proj.weight" if spec.q_rank else f"{at}q_proj.weight"
        down = torch.cat((self.get(queries), self.get(f"{at}kv_a_proj_with_mqa.weight")))
        expand = self.get(f"{at}kv_b_proj.weight")
        heads = expand.view(spec.num_heads, spec.nope_dim + spec.value_dim, spec.kv_rank)
        return AttentionWeights(
            input_norm=self._vector(f"{prefix}input_layernorm.weight"),
            q_norm=self._vector(f"{at}q_a_layernorm.weight") if spec.q_rank else None,
            kv_norm=self._vector(f"{at}kv_a_layernorm.weight"),
            down=convert(down, wanted),
            q_up=convert(self.get(f"{at}q_b_proj.weight"), wanted) if spec.q_rank else None,
            expand=convert(expand, wanted),
            absorb_k=convert(heads[:, : spec.nope_dim].transpose(1, 2).contiguous(), wanted),
            absorb_v=convert(heads[:, spec.nope_dim :].contiguous(), wanted),
            out=convert(self.get(f"{at}o_proj.weight"), wanted),
        )

    def _mlps(self, prefixes: list[str], wanted: Format) -> Mlps:
        def stack(name: str) -> Matrix:
            return stacked([convert(self.get(f"{prefix}{name}_proj.weight"), wanted) for prefix in prefixes])

        return Mlps(stack("gate"), stack("up"), stack("down"))

    def _experts(self, prefix: str, norm: Tensor) -> ForwardWeights:
        spec = self.spec
        routed = [f"{prefix}experts.{expert}." for expert in range(spec.router.experts)]
        biased = spec.router.method == "noaux_tc"
        return ForwardWeights(
            norm=norm,
            shared=self._mlps([f"{prefix}shared_experts."], self.policy.mlp) if spec.shared_experts else None,
            router=plain(self._vector(f"{prefix}gate.weight")),
            # the bias only chooses: it stays as precise as the checkpoint has it, whatever the dtype
            bias=self.exact(f"{prefix}gate.e_score_correction_bias").clone() if biased else None,
            routed=self._mlps(routed, self.policy.routed),
        )
