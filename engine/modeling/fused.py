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
from engine.quant import int8
from engine.quant.compressed import Quantised
from engine.quant.packfile import Packing
from engine.quant.policy import Stored, convert, is_kept, keep, stored
from engine.spec.memory import Held
from engine.spec.model import ModelSpec
from engine.spec.policy import Kind, Policy

_MOST = {"kv_rank + rope_dim": 4096, "nope_dim + rope_dim": 512, "experts": 1024}  # csrc: buffers on the stack

Get = Callable[[str], Tensor]


def beyond_kernels(spec: ModelSpec) -> str:
    """Which dimension is more than the kernels hold on their stack; empty when none is."""
    sizes = (spec.latent_dim, spec.nope_dim + spec.rope_dim, spec.router.experts)
    beyond = [(name, most, size) for (name, most), size in zip(_MOST.items(), sizes, strict=True) if size > most]
    return ", ".join(f"{name} is {size}, the compiled kernels go up to {most}" for name, most, size in beyond)


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
class Weights:
    """Named tensors of a checkpoint."""

    get: Get  # float32 values, rounded to the model's dtype
    exact: Get  # float32 values as the checkpoint has them
    quantised: Callable[[str], Quantised | None]  # whole numbers where the checkpoint holds such


@dataclass(frozen=True, slots=True)
class LayerBuilder:
    """Turns named tensors into fused layers: each is read, converted and dropped before the next."""

    spec: ModelSpec
    policy: Policy
    weights: Weights
    packing: Packing  # where converted weights may be found
    held: Held  # of what is not quantised

    def layer(self, index: int) -> FusedLayer:
        """One decoder layer."""
        prefix = f"model.layers.{index}."
        dense = self.spec.is_dense(index)
        norm = self.vector(f"{prefix}post_attention_layernorm.weight")
        if dense:
            forward = ForwardWeights(norm, self._mlps(f"{prefix}mlp.", [""], self._stored("dense", index)))
        else:
            forward = self._experts(index, f"{prefix}mlp.", norm)
        return FusedLayer(self.spec, self._attention(index, prefix), forward)

    def head(self) -> Matrix:
        """hidden → vocab; the embedding where they are tied."""
        name = "model.embed_tokens.weight" if self.spec.tied else "lm_head.weight"
        return self.packing.matrix("head", lambda: self._converted(name, self._stored("head")))

    def vector(self, name: str) -> Tensor:
        """A norm's weights."""
        return self.packing.vector(name, lambda: self.weights.get(name).clone(memory_format=torch.contiguous_format))

    def _stored(self, kind: Kind, layer: int = 0) -> Stored:
        return stored(self.policy.of(kind, layer), self.held)

    def _matrix(self, name: str, wanted: Stored, make: Callable[[], Tensor]) -> Matrix:
        return self.packing.matrix(name, lambda: convert(make(), wanted))

    def _converted(self, name: str, wanted: Stored) -> Matrix:
        """One matrix; whole numbers of the wanted format stay as they are."""
        found = self.weights.quantised(name)
        return keep(found) if found is not None and is_kept(found, wanted) else convert(self.weights.get(name), wanted)

    def _attention(self, index: int, prefix: str) -> AttentionWeights:
        spec, at, wanted = self.spec, f"{prefix}self_attn.", self._stored("attention", index)

        def heads() -> Tensor:
            expand = self.weights.get(f"{at}kv_b_proj.weight")
            return expand.view(spec.num_heads, spec.nope_dim + spec.value_dim, spec.kv_rank)

        def down() -> Matrix:
            names = (f"{at}q_a_proj.weight" if spec.q_rank else f"{at}q_proj.weight", f"{at}kv_a_proj_with_mqa.weight")
            found = [self.weights.quantised(name) for name in names]
            eight = [part for part in found if isinstance(part, int8.Quantised)]
            if wanted == "int8" and len(eight) == len(names):
                return int8.pack(int8.joined(eight))
            return convert(torch.cat([self.weights.get(name) for name in names]), wanted)

        def plainly(name: str) -> Matrix:
            return self.packing.matrix(f"{at}{name}", lambda: self._converted(f"{at}{name}_proj.weight", wanted))

        return AttentionWeights(
            input_norm=self.vector(f"{prefix}input_layernorm.weight"),
            q_norm=self.vector(f"{at}q_a_layernorm.weight") if spec.q_rank else None,
            kv_norm=self.vector(f"{at}kv_a_layernorm.weight"),
            down=self.packing.matrix(f"{at}down", down),
            q_up=plainly("q_b") if spec.q_rank else None,
            expand=plainly("kv_b"),
            absorb_k=self._matrix(
                f"{at}absorb_k", wanted, lambda: heads()[:, : spec.nope_dim].transpose(1, 2).contiguous()
            ),
            absorb_v=self._matrix(f"{at}absorb_v", wanted, lambda: heads()[:, spec.nope_dim :].contiguous()),
            out=plainly("o"),
        )

    def _mlps(self, at: str, parts: list[str], wanted: Stored) -> Mlps:
        def stack(name: str) -> Matrix:
            def make() -> Matrix:
                return stacked([self._converted(f"{at}{part}{name}_proj.weight", wanted) for part in parts])

            return self.packing.matrix(f"{at}{parts[0]}{name}", make)

        return Mlps(stack("gate"), stack("up"), stack("down"))

    def _experts(self, index: int, at: str, norm: Tensor) -> ForwardWeights:
        spec = self.spec
        bias = f"{at}gate.e_score_correction_bias"
        return ForwardWeights(
            norm=norm,
            shared=self._mlps(at, ["shared_experts."], self._stored("shared", index)) if spec.shared_experts else None,
            router=self.packing.matrix(f"{at}router", lambda: plain(self.weights.get(f"{at}gate.weight").contiguous())),
            # the bias only chooses: it stays as precise as the checkpoint has it, whatever the dtype
            bias=self.packing.vector(bias, lambda: self.weights.exact(bias).clone()) if self._is_biased else None,
            routed=self._mlps(
                at, [f"experts.{expert}." for expert in range(spec.router.experts)], self._stored("routed", index)
            ),
        )

    @property
    def _is_biased(self) -> bool:
        return self.spec.router.method == "noaux_tc"
