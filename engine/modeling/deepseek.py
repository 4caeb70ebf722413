"""The DeepSeek model: embedding, layers, norm and head over the rows of one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.kernels.packed import Packed
from engine.kernels.table import Ops
from engine.layers.batch import StepBatch
from engine.layers.cache import LatentCache
from engine.layers.experts import Dense, Experts
from engine.layers.mla import Mla
from engine.layers.rotary import Rotary
from engine.layers.rows import Layout, Rows, split_roles
from engine.parallel.collectives import WHOLE, Links
from engine.spec.model import ModelSpec

WIDE = 1024  # hidden sizes from here on stream their weights from memory: prompt rows then share them in larger tiles
WIDE_TILE = 48


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer, pre-norm with residuals in float32."""

    input_norm: Tensor  # [hidden]
    attention: Mla
    output_norm: Tensor  # [hidden]
    feed_forward: Dense | Experts
    links: Links = WHOLE

    def forward(self, x: Tensor, rows: Rows, cache: Tensor, eps: float) -> Tensor:
        """x [T, hidden] → [T, hidden]."""
        norm, total = self.attention.ops.rms_norm, self.links.tensor.sum
        x = x + total(self.attention.forward(norm(x, self.input_norm, eps), rows, cache))
        return x + total(self.feed_forward.forward(norm(x, self.output_norm, eps), rows))

    def matrices(self) -> Iterator[Packed]:
        """Every packed matrix of the layer."""
        attention, forward = self.attention, self.feed_forward
        yield from (attention.down, attention.out, attention.expand)
        if attention.q_up is not None:
            yield attention.q_up
        if isinstance(forward, Experts):
            yield forward.router.gate
        mlps = (forward.mlp,) if isinstance(forward, Dense) else (*forward.routed, *filter(None, (forward.shared,)))
        for mlp in mlps:
            yield from (mlp.gate_up, mlp.down)


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. The bits of a row's logits depend on its sequence's tokens and roles, and on nothing else."""

    spec: ModelSpec
    ops: Ops
    embedding: Tensor  # [vocab, hidden]
    layers: tuple[Layer, ...]
    final_norm: Tensor  # [hidden]
    head: Packed  # hidden → vocab
    rotary: Rotary
    tile: int  # rows of every product
    serial: bool  # one thread, since on some processors the number of threads changes how a product is summed
    cache_dtype: torch.dtype
    numerics: str  # everything that decides the bits of a logit
    skipped_mtp_tensors: int = 0
    links: Links = WHOLE  # of a part of a model: the other parts

    def new_cache(self, num_blocks: int, block_size: int) -> LatentCache:
        """An empty cache of `num_blocks` blocks."""
        spec = self.spec
        return LatentCache(len(self.layers), num_blocks, block_size, spec.latent_dim, self.cache_dtype)

    @torch.inference_mode()
    def forward(self, batch: StepBatch, cache: LatentCache) -> Tensor:
        """Logits float32 [S, vocab] of `batch.rows`; the latents of all rows are written to `cache`.

        A part of a model takes part in its group's step; only rank 0 gets the logits.
        """
        threads = torch.get_num_threads()
        if not self.serial or threads == 1:
            return self._forward(batch, cache)
        torch.set_num_threads(1)
        try:
            return self._forward(batch, cache)
        finally:
            torch.set_num_threads(threads)

    def _forward(self, batch: StepBatch, cache: LatentCache) -> Tensor:
        prompt_tile = max(self.tile, WIDE_TILE) if self.spec.hidden_size >= WIDE else self.tile
        layout = Layout(prompt_tile, self.tile, self.rotary, self.spec.num_heads)
        hidden = torch.empty(batch.token_ids.numel(), self.spec.hidden_size)
        place = self.links.place
        for rows in split_roles(batch, cache, layout):
            x = self._embed(rows.token_ids) if place.is_first else self.links.take_over(*self._shape(rows))
            for layer, latents in zip(self.layers, cache.layers, strict=True):
                x = layer.forward(x, rows, latents, self.spec.rms_eps)
            if place.is_last:
                hidden[rows.index] = x[: rows.count]
            else:
                self.links.hand_over(x)
        logits = self._logits(hidden.index_select(0, batch.rows)) if place.is_last else None
        return self.links.logits_home(logits, batch.rows.numel(), self.spec.vocab_size)

    def _shape(self, rows: Rows) -> tuple[int, int]:
        return rows.token_ids.numel(), self.spec.hidden_size

    def _embed(self, token_ids: Tensor) -> Tensor:
        """float32 [T, hidden]; a divided vocabulary adds one rank's row and the zeros of the others."""
        tensor = self.links.place.tensor
        if tensor.size == 1:
            return self.embedding.index_select(0, token_ids).float()
        own = tensor.share(self.spec.vocab_size)
        is_own = (token_ids >= own.start) & (token_ids < own.stop)
        rows = self.embedding.index_select(0, torch.where(is_own, token_ids - own.start, 0)).float()
        return self.links.tensor.sum(rows * is_own[:, None])

    def _logits(self, hidden: Tensor) -> Tensor:
        count = hidden.shape[0]
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, -count % self.tile))
        normed = self.ops.rms_norm(padded, self.final_norm, self.spec.rms_eps)
        logits = self.ops.linear_rows(normed, self.head, self.tile)[:count, : self.head.outputs].contiguous()
        tensor = self.links.place.tensor
        if tensor.size == 1:
            return logits
        shares = [len(replace(tensor, index=index).share(self.spec.vocab_size)) for index in range(tensor.size)]
        even = torch.nn.functional.pad(logits, (0, max(shares) - logits.shape[1]))
        return torch.cat([part[:, :n] for part, n in zip(self.links.tensor.gather(even), shares, strict=True)], 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices held."""
        matrices = [w for layer in self.layers for w in layer.matrices()]
        embedding = self.embedding.numel() * self.embedding.element_size()
        return embedding + self.head.nbytes + sum(w.nbytes for w in matrices)

    def shortened(self) -> Model:
        """The same model with one layer of each kind: enough to see how this machine's arithmetic behaves."""
        kinds = {type(layer.feed_forward): layer for layer in self.layers}
        return replace(self, layers=tuple(kinds.values()))
