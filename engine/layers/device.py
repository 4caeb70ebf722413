"""One decoder layer on a GPU: a residual stream in float32, everything between its norms in the model's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear as plain_linear
from torch.nn.functional import scaled_dot_product_attention, silu

from engine.kernels.triton import experts as fused
from engine.kernels.triton.attention import Pages, attend
from engine.kernels.triton.latent import remember, turn_queries
from engine.kernels.triton.norm import rms_norm
from engine.kernels.triton.route import choose
from engine.kernels.triton.weights import Weight
from engine.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Prompt:
    """Consecutive prompt rows of one sequence."""

    start: int
    length: int
    position: int  # of the first row
    slots: Tensor  # int64 [position + length]: where everything that they see lies in the cache


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """A step's rows on the device: prompt rows first, then generated ones."""

    token_ids: Tensor  # int64 [T]
    slots: Tensor  # int64 [T]
    turn: tuple[Tensor, Tensor]  # cos and ±sin [T, rope]
    prompts: tuple[Prompt, ...]
    first: int  # the first generated row
    pages: Pages | None  # of the generated rows
    wanted: Tensor  # int64 [S]: rows whose logits are wanted


def times(x: Tensor, w: Weight) -> Tensor:
    """x [T, K] · Wᵀ → [T, N] in x's type: the library's product where nothing is quantised."""
    return plain_linear(x, w.values[0]) if w.format == "plain" else fused.linear(x, w)


@dataclass(frozen=True, slots=True)
class DeviceAttention:
    """Multi-head latent attention: prompt rows in the expanded form, generated rows in the absorbed one."""

    spec: ModelSpec
    down: Weight  # hidden → [q_rank or heads × (nope + rope) | kv_rank | rope]
    q_norm: Tensor | None
    q_up: Weight | None
    kv_norm: Tensor
    expand: Weight  # kv_rank → heads × (nope + value)
    absorb_k: Tensor  # [heads, nope, kv_rank]
    absorb_v: Tensor  # [heads, kv_rank, value]
    out: Weight

    def forward(self, x: Tensor, rows: DeviceRows, cache: Tensor) -> Tensor:
        """x [T, hidden] (normed) → [T, hidden]; writes the rows' latents to the layer's cache first."""
        spec = self.spec
        width = spec.nope_dim + spec.rope_dim
        down = times(x, self.down)
        q_width = spec.q_rank or spec.num_heads * width
        remember(down[:, q_width:], self.kv_norm, spec.rms_eps, rows.turn, rows.slots, cache)
        q = down[:, :q_width]
        if self.q_up is not None and self.q_norm is not None:
            q = times(rms_norm(q, self.q_norm, spec.rms_eps, x.dtype), self.q_up)
        q = (q * spec.softmax_scale).view(-1, spec.num_heads, width)
        mixed = torch.empty(x.shape[0], spec.num_heads, spec.value_dim, dtype=x.dtype, device=x.device)
        if rows.prompts:
            self._prompts(q, rows, cache, mixed)
        if rows.pages is not None:
            mixed[rows.first :] = self._generated(q[rows.first :], rows, cache, rows.pages)
        return times(mixed.flatten(1), self.out)

    def _prompts(self, q: Tensor, rows: DeviceRows, cache: Tensor, mixed: Tensor) -> None:
        spec = self.spec
        turned = torch.empty_like(q[: rows.first])
        turned[:, :, : spec.nope_dim] = q[: rows.first, :, : spec.nope_dim]
        cos, sin = rows.turn
        turn_queries(q[: rows.first, :, spec.nope_dim :], (cos, sin), turned[:, :, spec.nope_dim :])
        for part in rows.prompts:
            span = slice(part.start, part.start + part.length)
            latents = cache.index_select(0, part.slots).to(q.dtype)
            both = times(latents[:, : spec.kv_rank].contiguous(), self.expand)
            plain, values = both.view(-1, spec.num_heads, spec.nope_dim + spec.value_dim).split(
                (spec.nope_dim, spec.value_dim), -1
            )
            shared = latents[:, None, spec.kv_rank :].expand(-1, spec.num_heads, -1)
            keys = torch.cat((plain, shared), -1)
            mask = None
            if part.position:
                at = torch.arange(part.position + part.length, device=q.device)
                mask = at[None, :] <= at[part.position :, None]
            found = scaled_dot_product_attention(
                turned[span].transpose(0, 1)[None], keys.transpose(0, 1)[None], values.transpose(0, 1)[None],
                attn_mask=mask, is_causal=mask is None, scale=1.0,
            )  # fmt: skip
            mixed[span] = found[0].transpose(0, 1)

    def _generated(self, q: Tensor, rows: DeviceRows, cache: Tensor, pages: Pages) -> Tensor:
        spec = self.spec
        absorbed = torch.empty(q.shape[0], spec.num_heads, spec.latent_dim, dtype=q.dtype, device=q.device)
        absorbed[:, :, : spec.kv_rank] = torch.bmm(q[:, :, : spec.nope_dim].transpose(0, 1), self.absorb_k).transpose(
            0, 1
        )
        cos, sin = rows.turn
        turn_queries(q[:, :, spec.nope_dim :], (cos[rows.first :], sin[rows.first :]), absorbed[:, :, spec.kv_rank :])
        latent = attend(absorbed, cache, pages, spec.kv_rank)
        return torch.bmm(latent.transpose(0, 1), self.absorb_v).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class DeviceForward:
    """A plain MLP, or routed experts and the shared ones that every token uses."""

    spec: ModelSpec
    shared: fused.Mlps | None  # or the plain MLP
    routed: fused.Mlps | None
    router: Tensor | None  # float32 [experts, hidden]
    bias: Tensor | None  # float32 [experts]

    def forward(self, x: Tensor) -> Tensor:
        """x [T, hidden] (normed) → [T, hidden]."""
        total = None
        if self.routed is not None and self.router is not None:
            ids, weights = choose(plain_linear(x.float(), self.router), self.bias, self.spec.router)
            total = fused.experts(x, ids, weights, self.routed)
        if self.shared is None:
            return x if total is None else total
        gate, up = times(x, self.shared.gate_up).chunk(2, dim=-1)
        always = times(silu(gate) * up, self.shared.down)
        return always if total is None else total + always


@dataclass(frozen=True, slots=True)
class DeviceLayer:
    """Pre-norm; what a half adds to the residual stream is summed by the next norm."""

    input_norm: Tensor
    attention: DeviceAttention
    output_norm: Tensor
    feed_forward: DeviceForward

    def forward(self, x: Tensor, added: Tensor | None, rows: DeviceRows, cache: Tensor) -> Tensor:
        """Stream x float32 [T, hidden], changed in place, and what is still to be added → what is to be added next."""
        eps, dtype = self.attention.spec.rms_eps, self.attention.absorb_k.dtype
        normed = rms_norm(x, self.input_norm, eps, dtype, added)
        attended = self.attention.forward(normed, rows, cache)
        return self.feed_forward.forward(rms_norm(x, self.output_norm, eps, dtype, attended))
