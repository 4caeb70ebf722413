"""Multi-head latent attention: prompt rows in the expanded form, generated rows in the absorbed one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.packed import Packed
from engine.kernels.table import POSITIONS, Ops, PromptKeys
from engine.layers.rows import Rows
from engine.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Mla:
    """One layer's attention. `down` is the query and latent projections of the input in one product."""

    spec: ModelSpec
    ops: Ops
    down: Packed  # hidden → [q_rank or heads × (nope + rope) | kv_rank | rope]
    q_norm: Tensor | None  # [q_rank]
    q_up: Packed | None  # q_rank → heads × (nope + rope)
    kv_norm: Tensor  # [kv_rank]
    expand: Packed  # kv_rank → heads × (nope + value), for prompt rows
    absorb_k: Tensor  # [heads, nope, kv_rank], for generated rows
    absorb_v: Tensor  # [heads, kv_rank, value]
    out: Packed  # heads × value → hidden

    def forward(self, x: Tensor, rows: Rows, cache: Tensor) -> Tensor:
        """x [T, hidden] (normed) → [T, hidden]; writes the rows' latents to the layer's cache first."""
        spec, ops = self.spec, self.ops
        down = ops.linear_rows(x, self.down, rows.tile)
        q_width = spec.q_rank or spec.num_heads * (spec.nope_dim + spec.rope_dim)
        latent_end = q_width + spec.kv_rank
        latent = ops.rms_norm(down[:, q_width:latent_end], self.kv_norm, spec.rms_eps)
        shared = ops.rope(down[:, latent_end : latent_end + spec.rope_dim], rows.cos, rows.sin)
        cache[rows.slots] = torch.cat((latent, shared), 1)[: rows.count].to(cache.dtype)
        q = down[:, :q_width]
        if self.q_up is not None and self.q_norm is not None:
            q = ops.linear_rows(ops.rms_norm(q, self.q_norm, spec.rms_eps), self.q_up, rows.tile)
        q = q[:, : spec.num_heads * (spec.nope_dim + spec.rope_dim)] * spec.softmax_scale
        q = q.view(x.shape[0], spec.num_heads, -1)
        turned = ops.rope(q[:, :, spec.nope_dim :], rows.cos, rows.sin)
        attend = self._generated if rows.groups else self._prompts
        mixed = attend(q[:, :, : spec.nope_dim], turned, rows, cache)
        return ops.linear_rows(mixed, self.out, rows.tile)[:, : spec.hidden_size]

    def _prompts(self, plain: Tensor, turned: Tensor, rows: Rows, cache: Tensor) -> Tensor:
        spec = self.spec
        q = torch.cat((plain, turned), -1)
        mixed = q.new_zeros(q.shape[0], spec.num_heads * spec.value_dim)
        for part in rows.prompts:
            latents = cache.index_select(0, part.slots).float()
            keys = PromptKeys(latents, self.expand, spec.kv_rank, spec.nope_dim, spec.value_dim)
            span = slice(part.start, part.start + part.length)
            mixed[span] = self.ops.attend_prompt(q[span], part.position, keys)
        return mixed

    def _generated(self, plain: Tensor, turned: Tensor, rows: Rows, cache: Tensor) -> Tensor:
        spec = self.spec
        q = torch.cat((self.ops.heads_rows(plain, self.absorb_k, rows.tile), turned), -1)
        latent = q.new_zeros(q.shape[0], spec.num_heads, spec.kv_rank)
        for group in rows.groups:
            keys = cache.index_select(0, group.slots.view(-1)).float()
            keys = keys.view(group.slots.shape[0], -1, POSITIONS, spec.latent_dim)
            latent[group.rows] = self.ops.attend_generated(q[group.rows], keys, group.hidden, spec.kv_rank)
        return self.ops.heads_rows(latent, self.absorb_v, rows.tile).reshape(q.shape[0], -1)
