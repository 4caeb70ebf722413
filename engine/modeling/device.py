"""The DeepSeek model on one GPU. Its products are not row-wise: replays are valid continuations, not identical ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.kernels.triton.attention import Pages
from engine.kernels.triton.experts import Mlps
from engine.kernels.triton.norm import rms_norm
from engine.kernels.triton.weights import Weight
from engine.layers.batch import Segment, StepBatch
from engine.layers.cache import LatentCache
from engine.layers.device import DeviceAttention, DeviceForward, DeviceLayer, DeviceRows, Prompt, times
from engine.layers.rotary import Rotary
from engine.modeling.fused import Weights
from engine.modeling.loader import opened
from engine.quant import device as formats
from engine.spec.config import EngineConfig
from engine.spec.model import ModelSpec
from engine.spec.policy import Kind, Policy

NUMERICS = "triton-1"  # raise it whenever a change of these kernels changes the bits of any logit


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A loaded model on a device."""

    spec: ModelSpec
    embedding: Tensor  # [vocab, hidden]
    layers: tuple[DeviceLayer, ...]
    final_norm: Tensor
    head: Weight
    rotary: Rotary
    dtype: torch.dtype
    numerics: str

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.embedding.device

    def new_cache(self, num_blocks: int, block_size: int) -> LatentCache:
        """An empty cache of `num_blocks` blocks on the device."""
        with self.device:
            return LatentCache(len(self.layers), num_blocks, block_size, self.spec.latent_dim, self.dtype)

    @torch.inference_mode()
    def forward(self, batch: StepBatch, cache: LatentCache) -> Tensor:
        """Logits float32 [S, vocab] of `batch.rows`, on the device; all rows' latents are written to `cache`."""
        return self.compute(self.laid_out(batch, cache), cache)

    def compute(self, rows: DeviceRows, cache: LatentCache) -> Tensor:
        """The same for rows that are on the device already: nothing here waits for the host."""
        x = self.embedding.index_select(0, rows.token_ids).float()
        added: Tensor | None = None
        for layer, latents in zip(self.layers, cache.layers, strict=True):
            added = layer.forward(x, added, rows, latents)
        assert added is not None  # a model has a layer
        x = x.index_select(0, rows.wanted)
        normed = rms_norm(x, self.final_norm, self.spec.rms_eps, self.dtype, added.index_select(0, rows.wanted))
        return times(normed, self.head).float()

    def laid_out(self, batch: StepBatch, cache: LatentCache) -> DeviceRows:
        """A step's rows in one copy to the device."""
        prompts = [s for s in batch.segments if not s.generated and s.length]
        generated = [s for s in batch.segments if s.generated and s.length]
        order = _order([*prompts, *generated])
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel())
        seen = [cache.slots_of(s.block_table.cpu(), s.position + s.length, s.position + s.length) for s in prompts]
        tables, lengths = _tables(generated)
        parts = (
            batch.token_ids[order], batch.positions[order], batch.slots[order], place[batch.rows], lengths,
            tables.flatten(), *seen,
        )  # fmt: skip
        ids, positions, slots, wanted, lengths, flat, *seen = self._sent(parts)
        pages = Pages(flat.view(lengths.numel(), -1), lengths, cache.block_size) if generated else None
        return DeviceRows(
            ids, slots, self.rotary.at(positions), _prompts(prompts, seen), _count(prompts), pages, wanted
        )

    def _sent(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        host = torch.cat(parts)
        host = host.pin_memory() if self.device.type == "cuda" else host
        return host.to(self.device, non_blocking=True).split([part.numel() for part in parts])


def _count(segments: list[Segment]) -> int:
    return sum(s.length for s in segments)


def _order(segments: list[Segment]) -> Tensor:
    """Which row of the batch comes where."""
    return torch.cat([torch.arange(s.start, s.start + s.length) for s in segments])


def _prompts(segments: list[Segment], seen: list[Tensor]) -> tuple[Prompt, ...]:
    start, found = 0, []
    for segment, slots in zip(segments, seen, strict=True):
        found.append(Prompt(start, segment.length, segment.position, slots))
        start += segment.length
    return tuple(found)


def _tables(segments: list[Segment]) -> tuple[Tensor, Tensor]:
    """Block tables [rows, blocks] and visible lengths [rows] of generated rows, one row each."""
    widest = max((s.block_table.numel() for s in segments), default=0)
    tables = torch.zeros(_count(segments), widest, dtype=torch.int64)
    lengths = torch.zeros(_count(segments), dtype=torch.int64)
    row = 0
    for s in segments:
        tables[row : row + s.length, : s.block_table.numel()] = s.block_table
        lengths[row : row + s.length] = torch.arange(s.position + 1, s.position + s.length + 1)
        row += s.length
    return tables, lengths


@dataclass(frozen=True, slots=True)
class DeviceBuilder:
    """Turns named tensors into a model on a device: each is read, converted, sent and dropped before the next."""

    spec: ModelSpec
    policy: Policy
    weights: Weights
    device: torch.device
    dtype: torch.dtype  # of activations and of what is not quantised

    @torch.inference_mode()
    def build(self, positions: int, numerics: str) -> DeviceModel:
        """The whole model, for sequences of up to `positions` tokens."""
        spec, table = self.spec, "model.embed_tokens.weight"
        with self.device:
            rotary = Rotary(spec.rope, spec.rope_dim, positions)
        return DeviceModel(
            spec=spec,
            embedding=self._plain(self.weights.get(table)),
            layers=tuple(self.layer(index) for index in range(spec.num_layers)),
            final_norm=self._vector("model.norm.weight"),
            head=self._matrix(table if spec.tied else "lm_head.weight", "head"),
            rotary=rotary,
            dtype=self.dtype,
            numerics=numerics,
        )

    def layer(self, index: int) -> DeviceLayer:
        """One decoder layer."""
        prefix = f"model.layers.{index}."
        return DeviceLayer(
            input_norm=self._vector(f"{prefix}input_layernorm.weight"),
            attention=self._attention(index, f"{prefix}self_attn."),
            output_norm=self._vector(f"{prefix}post_attention_layernorm.weight"),
            feed_forward=self._forward(index, f"{prefix}mlp."),
        )

    def _vector(self, name: str) -> Tensor:
        return self.weights.get(name).to(self.device, torch.float32, copy=True)

    def _plain(self, weight: Tensor) -> Tensor:
        return weight.to(self.device, self.dtype, copy=True).contiguous()

    def _matrix(self, name: str, kind: Kind, layer: int = 0) -> Weight:
        return self._weight([lambda: self.weights.get(name)], kind, layer)

    def _weight(self, parts: list[Callable[[], Tensor]], kind: Kind, layer: int) -> Weight:
        """Matrices of one shape as one weight of the policy's format, converted one after the other."""
        wanted = self.policy.of(kind, layer)
        return formats.stacked([formats.convert(make(), wanted, self.dtype, self.device) for make in parts])

    def _attention(self, index: int, at: str) -> DeviceAttention:
        spec = self.spec
        queries = f"{at}q_a_proj.weight" if spec.q_rank else f"{at}q_proj.weight"

        def down() -> Tensor:
            return torch.cat((self.weights.get(queries), self.weights.get(f"{at}kv_a_proj_with_mqa.weight")))

        expand = self._matrix(f"{at}kv_b_proj.weight", "attention", index)
        heads = formats.values_of(expand).view(spec.num_heads, spec.nope_dim + spec.value_dim, spec.kv_rank)
        return DeviceAttention(
            spec=spec,
            down=self._weight([down], "attention", index),
            q_norm=self._vector(f"{at}q_a_layernorm.weight") if spec.q_rank else None,
            q_up=self._matrix(f"{at}q_b_proj.weight", "attention", index) if spec.q_rank else None,
            kv_norm=self._vector(f"{at}kv_a_layernorm.weight"),
            expand=expand,
            absorb_k=self._plain(heads[:, : spec.nope_dim]),
            absorb_v=self._plain(heads[:, spec.nope_dim :].transpose(1, 2)),
            out=self._matrix(f"{at}o_proj.weight", "attention", index),
        )

    def _forward(self, index: int, at: str) -> DeviceForward:
        spec = self.spec
        if spec.is_dense(index):
            return DeviceForward(spec, self._mlps([at], "dense", index), None, None, None)
        bias = f"{at}gate.e_score_correction_bias"
        return DeviceForward(
            spec=spec,
            shared=self._mlps([f"{at}shared_experts."], "shared", index) if spec.shared_experts else None,
            routed=self._mlps([f"{at}experts.{e}." for e in range(spec.router.experts)], "routed", index),
            router=self._vector(f"{at}gate.weight"),
            bias=self.weights.exact(bias).to(self.device, copy=True) if spec.router.method == "noaux_tc" else None,
        )

    def _mlps(self, parts: list[str], kind: Kind, layer: int) -> Mlps:
        def both(part: str) -> Tensor:
            return torch.cat([self.weights.get(f"{part}{name}_proj.weight") for name in ("gate", "up")])

        gate_up = self._weight([lambda p=p: both(p) for p in parts], kind, layer)
        down = self._weight([lambda p=p: self.weights.get(f"{p}down_proj.weight") for p in parts], kind, layer)
        return Mlps(gate_up, down)


def load(config: EngineConfig, device: torch.device) -> DeviceModel:
    """Load config.model on a device, quantised as the config says. Raises CheckpointError or ConfigError."""
    with opened(replace(config, kernels="reference")) as source:
        weights = Weights(source.source.get, source.source.get, source.source.quantised)
        dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
        builder = DeviceBuilder(source.spec, source.policy, weights, device, dtype)
        words = (NUMERICS, source.checkpoint, config.dtype, source.policy.name, torch.__version__, _name(device))
        return builder.build(config.max_model_len or source.spec.max_positions, ":".join(words))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
