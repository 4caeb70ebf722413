"""From a checkpoint directory to a model: tensors are read, checked, packed and dropped one after the other."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.kernels.cpu.build import user_cache
from engine.kernels.cpu.library import Library
from engine.kernels.cpu.library import load as load_library
from engine.kernels.packed import Mlp, Packed, pack, pack_mlp
from engine.kernels.reference import REFERENCE
from engine.kernels.rowwise import narrowest_tile
from engine.kernels.table import Ops
from engine.layers.experts import Dense, Experts
from engine.layers.mla import Mla
from engine.layers.rotary import Rotary
from engine.layers.router import Router
from engine.modeling.checkpoint import check_entries, fingerprint, open_reader, read_entries
from engine.modeling.deepseek import Layer, Model
from engine.modeling.dummy import Dummy
from engine.modeling.fused import FusedModel, LayerBuilder, Weights, beyond_kernels
from engine.modeling.tensors import expected_shapes
from engine.parallel.collectives import WHOLE, Links
from engine.parallel.shards import local_spec, part_of
from engine.quant.compressed import Quantised
from engine.quant.packfile import Direct, Packing, packed
from engine.quant.policy import is_kept, rounded
from engine.spec.config import EngineConfig
from engine.spec.errors import ConfigError
from engine.spec.memory import cache_dtype, held_as, holds_float32, is_small, weight_bytes
from engine.spec.model import ModelSpec, read_spec
from engine.spec.policy import Policy, resolve

NUMERICS_VERSION = 1  # raise it whenever a change of this package changes the bits of any logit
PACK_FROM = 64 << 20  # bytes of quantised weights from which on they are kept in a file: smaller ones are made faster

Loaded = Model | FusedModel


class Source(Protocol):
    """Where the tensors of a checkpoint come from."""

    def get(self, name: str) -> Tensor:
        """Values float32."""
        ...

    def quantised(self, name: str) -> Quantised | None:
        """The whole numbers and scales of a tensor that is held in a format the engine computes with, else None."""
        ...


def load_part(config: EngineConfig, links: Links) -> Model:
    """The part of config.model that one of several ranks holds, on the reference kernels."""
    with opened(config) as builder:
        assert isinstance(builder, ReferenceBuilder)  # several ranks compute on it, see library_of
        return replace(builder, links=links).build()


def load(config: EngineConfig) -> Loaded:
    """Load config.model in config.dtype, quantised and on the kernels that the config names.

    Raises CheckpointError naming the file and the tensor for anything missing, truncated, misshapen, unknown or NaN.
    """
    with opened(config) as builder:
        return builder.build()


@contextmanager
def opened(config: EngineConfig) -> Iterator[FusedBuilder | ReferenceBuilder]:
    """What turns the checkpoint's tensors into a model or into parts of one, while its files are open."""
    spec = read_spec(config.model)
    expected = expected_shapes(spec)
    policy = resolve(config.quantization, Path(config.model), spec)
    if config.load_format == "dummy":
        yield _builder(_Opened(spec, config, policy, Dummy(expected, policy), "dummy-2", 0))
        return
    model_dir = Path(config.model)
    entries = read_entries(model_dir)
    skipped = check_entries(entries, expected, spec, model_dir)
    with open_reader(entries, spec) as reader:
        yield _builder(_Opened(spec, config, policy, reader, fingerprint(model_dir, entries), skipped))


def library_of(config: EngineConfig, spec: ModelSpec) -> Library | None:
    """The compiled kernels: when the config names them, or leaves it open and machine and model allow them.

    Raises ConfigError when they are named and cannot be had.
    """
    if config.kernels == "reference" or config.world_size > 1:  # several ranks compute on the reference
        return None
    reason = beyond_kernels(spec)
    if config.kernels == "cpu" and reason:
        raise ConfigError(f"{reason}; set kernels to auto or reference")
    library = None if reason else load_library()
    if config.kernels == "cpu" and library is None:
        raise ConfigError("kernels is cpu, but they cannot be compiled here (see above); set kernels to auto")
    return library


def _builder(found: _Opened) -> FusedBuilder | ReferenceBuilder:
    library = library_of(found.config, found.spec)
    given = (found.spec, found.config, found.policy, found.source, found.checkpoint, found.skipped)
    return ReferenceBuilder(*given) if library is None else FusedBuilder(*given, library)


@dataclass(frozen=True, slots=True)
class _Opened:
    """Named tensors as the model computes with them."""

    spec: ModelSpec
    config: EngineConfig
    policy: Policy
    source: Source
    checkpoint: str  # its fingerprint
    skipped: int  # MTP tensors left aside

    @property
    def _held(self) -> torch.dtype:
        return torch.float32 if holds_float32(self.spec, self.config.dtype) else torch.bfloat16

    def _get(self, name: str) -> Tensor:
        """Values float32, rounded to bfloat16 when that is the model's dtype and they are not quantised already."""
        value = self.source.get(name)
        if self.config.dtype != "bfloat16" or self.source.quantised(name) is not None:
            return value
        return value.bfloat16().float()

    def _latents(self) -> torch.dtype:
        return torch.float32 if cache_dtype(self.spec, self.config.dtype) == "float32" else torch.float16

    def _numerics(self, *parts: str) -> str:
        words = (self.config.dtype, str(self._held), self.policy.name, str(self._latents()), *parts)
        return f"{NUMERICS_VERSION}:" + ":".join((*words, _machine()))


@dataclass(frozen=True, slots=True)
class FusedBuilder(_Opened):
    """Turns named tensors into layers for the compiled kernels."""

    library: Library

    @torch.inference_mode()
    def build(self) -> FusedModel:
        """The model; large quantised weights come from a file that replicas share."""
        size = weight_bytes(self.spec, self.config.dtype, self.policy, packed=True)
        if not self.policy.is_quantised or size < PACK_FROM or self.config.load_format == "dummy":
            return self._assemble(Direct())
        words = (self.checkpoint, self.config.dtype, str(self._held), self.policy.name)
        key = hashlib.sha256("|".join(words).encode()).hexdigest()[:32]
        return packed(user_cache() / "weights", key, self._assemble)

    def parts(self, packing: Packing | None = None) -> LayerBuilder:
        """What makes single layers and the head."""
        weights = Weights(self._get, self.source.get, self.source.quantised)
        held = held_as(self.spec, self.config.dtype)
        return LayerBuilder(self.spec, self.policy, weights, packing or Direct(), held)

    def _assemble(self, packing: Packing) -> FusedModel:
        spec, table = self.spec, "model.embed_tokens.weight"
        layers = self.parts(packing)
        return FusedModel(
            spec=spec,
            library=self.library,
            embedding=packing.vector(table, lambda: self._get(table).to(self._held, copy=True)),
            layers=tuple(layers.layer(index) for index in range(spec.num_layers)),
            final_norm=layers.vector("model.norm.weight"),
            head=layers.head(),
            rotary=Rotary(spec.rope, spec.rope_dim, self.config.max_model_len or spec.max_positions),
            cache_dtype=self._latents(),
            numerics=self._numerics(self.checkpoint, self.library.name),
            skipped_mtp_tensors=self.skipped,
        )


@dataclass(frozen=True, slots=True)
class ReferenceBuilder(_Opened):
    """Turns named tensors into packed layers for the reference, with the values that quantised weights have."""

    ops: Ops = REFERENCE
    links: Links = WHOLE  # of a part of a model: what it holds, and who holds the rest

    def _matrix(self, name: str) -> Tensor:
        """This rank's part; rounded before it is cut, so that scales do not depend on how many ranks there are."""
        wanted = self.policy.of_tensor(name)
        found = self.source.quantised(name)
        is_right = found is not None and is_kept(found, wanted)
        return self._cut(name, self._get(name) if is_right else rounded(self._get(name), wanted))

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        part = part_of(name, self.spec, self.links.place)
        return whole if part is None else whole.narrow(part.dim, part.span.start, len(part.span)).clone()

    @torch.inference_mode()
    def build(self) -> Model:
        """The model, with the tile that keeps products row-wise on this machine."""
        spec = self.spec
        table = "model.embed_tokens.weight"
        embedding = self._cut(table, self._get(table))
        layers = tuple(self.layer(index) for index in self.links.place.pipeline.share(spec.num_layers))
        packed_head = self.head()
        matrices = (*(w for layer in layers for w in layer.matrices()), packed_head)
        tile = self.links.largest(narrowest_tile({(w.inputs, w.width): w for w in matrices}))
        positions = self.config.max_model_len or spec.max_positions
        return Model(
            spec=spec,
            ops=self.ops,
            embedding=embedding.to(self._held, copy=True),
            layers=layers,
            final_norm=self._get("model.norm.weight").clone(),
            head=packed_head,
            rotary=Rotary(spec.rope, spec.rope_dim, positions),
            tile=tile,
            serial=is_small(spec),
            cache_dtype=self._latents(),
            numerics=self._numerics(self.checkpoint, self.ops.name, str(tile), *self.links.numerics),
            skipped_mtp_tensors=self.skipped,
            links=self.links,
        )

    def head(self) -> Packed:
        """hidden → vocab; the embedding where they are tied."""
        if not self.spec.tied:
            return pack(self._matrix("lm_head.weight"), self._held)
        table = "model.embed_tokens.weight"
        return pack(self._cut(table, rounded(self._get(table), self.policy.head)), self._held)

    def layer(self, index: int) -> Layer:
        """One decoder layer."""
        prefix = f"model.layers.{index}."
        dense = self.spec.is_dense(index)
        return Layer(
            input_norm=self._get(f"{prefix}input_layernorm.weight").clone(),
            attention=self._attention(f"{prefix}self_attn."),
            output_norm=self._get(f"{prefix}post_attention_layernorm.weight").clone(),
            feed_forward=Dense(self.ops, self._mlp(f"{prefix}mlp.")) if dense else self._experts(f"{prefix}mlp."),
            links=self.links,
        )

    def _attention(self, prefix: str) -> Mla:
        spec = local_spec(self.spec, self.links.place)
        queries = f"{prefix}q_a_proj.weight" if spec.q_rank else f"{prefix}q_proj.weight"
        down = torch.cat((self._matrix(queries), self._matrix(f"{prefix}kv_a_proj_with_mqa.weight")))
        expand = self._matrix(f"{prefix}kv_b_proj.weight")
        heads = expand.view(spec.num_heads, spec.nope_dim + spec.value_dim, spec.kv_rank)
        return Mla(
            spec=spec,
            ops=self.ops,
            down=pack(down, self._held),
            q_norm=self._get(f"{prefix}q_a_layernorm.weight").clone() if spec.q_rank else None,
            q_up=pack(self._matrix(f"{prefix}q_b_proj.weight"), self._held) if spec.q_rank else None,
            kv_norm=self._get(f"{prefix}kv_a_layernorm.weight").clone(),
            expand=pack(expand, self._held),
            absorb_k=heads[:, : spec.nope_dim].clone(memory_format=torch.contiguous_format),
            absorb_v=heads[:, spec.nope_dim :].transpose(1, 2).clone(memory_format=torch.contiguous_format),
            out=pack(self._matrix(f"{prefix}o_proj.weight"), self._held),
        )

    def _mlp(self, prefix: str) -> Mlp:
        gate, up, down = (self._matrix(f"{prefix}{name}_proj.weight") for name in ("gate", "up", "down"))
        return pack_mlp(gate, up, down, self._held)

    def _experts(self, prefix: str) -> Experts:
        router = self.spec.router
        # the bias only chooses: it stays as precise as the checkpoint has it, whatever the dtype
        bias = self.source.get(f"{prefix}gate.e_score_correction_bias").clone() if router.method == "noaux_tc" else None
        return Experts(
            ops=self.ops,
            router=Router(router, self.ops, pack(self._get(f"{prefix}gate.weight")), bias),
            routed=tuple(
                self._mlp(f"{prefix}experts.{expert}.") for expert in self.links.place.expert.share(router.experts)
            ),
            shared=self._mlp(f"{prefix}shared_experts.") if self.spec.shared_experts else None,
            group=self.links.expert,
        )


def _machine() -> str:
    """What chooses torch's code paths: its version, the instruction set and the processor."""
    names = ("vendor_id", "cpu family", "model")
    found: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").split("\n\n", 1)[0].splitlines():
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
    processor = "-".join(found.get(name, "") for name in names) if found else platform.machine()
    return f"torch-{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}-{processor}"
