"""A plain, trainable DeepSeek-V3: latent attention, sigmoid routing without an auxiliary loss, and one MTP layer.

It is written for training on a CPU: attention is in the expanded form and tokens are sorted by expert. The arithmetic
is that of the DeepSeek-V3 technical report, §2, so an exported checkpoint loads wherever `deepseek_v3` does.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Dimensions of the model; the names are those of the Hugging Face `config.json`."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    moe_intermediate_size: int = 128
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    num_attention_heads: int = 4
    q_lora_rank: int = 128
    kv_lora_rank: int = 128
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    n_group: int = 4
    topk_group: int = 2
    routed_scaling_factor: float = 1.5
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    bos_token_id: int = 0
    eos_token_id: int = 1

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ModelConfig:
        """Take the known fields of a `config.json` and ignore the others."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in names})


class RMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) · weight over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., width]."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_tables(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [rows, length, rope/2], for positions [rows, length]."""
    half = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float32)
    angle = positions.float().unsqueeze(-1) * config.rope_theta ** (-half / config.qk_rope_head_dim)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate interleaved pairs (x0, x1), (x2, x3), … of x [rows, length, heads, rope]."""
    cos, sin = rope[0].unsqueeze(2), rope[1].unsqueeze(2)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What all layers share in one pass: rotation tables and who may see whom (bool [rows, 1, length, length])."""

    rope: tuple[Tensor, Tensor]
    visible: Tensor


class Attention(nn.Module):
    """Multi-head latent attention, expanded: queries and keys of nope+rope dimensions, one rope key for all heads."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        heads, query_dim = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
        self.q_a_proj = nn.Linear(c.hidden_size, c.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
        self.q_b_proj = nn.Linear(c.q_lora_rank, heads * query_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * c.v_head_dim, c.hidden_size, bias=False)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Attend within each row of x [rows, length, hidden] as `layout` allows."""
        c, (rows, length, _) = self.c, x.shape
        heads = c.num_attention_heads
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(rows, length, heads, -1)
        q_nope, q_rope = q.split((c.qk_nope_head_dim, c.qk_rope_head_dim), dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((c.kv_lora_rank, c.qk_rope_head_dim), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(rows, length, heads, -1)
        k_nope, v = kv.split((c.qk_nope_head_dim, c.v_head_dim), dim=-1)
        k_rope = rotate(k_rope.unsqueeze(2), layout.rope).expand(-1, -1, heads, -1)
        query = torch.cat((q_nope, rotate(q_rope, layout.rope)), dim=-1).transpose(1, 2)
        key = torch.cat((k_nope, k_rope), dim=-1).transpose(1, 2)
        # torch's fast CPU kernel wants values as wide as keys: pad with zeros, then cut.
        value = F.pad(v, (0, query.shape[-1] - c.v_head_dim)).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.visible)
        return self.o_proj(out[..., : c.v_head_dim].transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [..., hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Scatter(torch.autograd.Function):
    """Copy each token to its k sorted places; the gradient gathers and adds them, which is faster than index_add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, order // k)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse).view(-1, ctx.k, grads[0].shape[-1]).sum(1), None, None, None


class _Gather(torch.autograd.Function):
    """Bring sorted rows back to token order."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return y.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grads[0].index_select(0, order), None, None


class MoE(nn.Module):
    """Routed experts chosen by biased sigmoid scores within the best groups, plus a shared expert for every token."""

    bias: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        e, i, h = c.n_routed_experts, c.moe_intermediate_size, c.hidden_size
        self.gate = nn.Parameter(torch.empty(e, h))
        self.gate_proj = nn.Parameter(torch.empty(e, i, h))
        self.up_proj = nn.Parameter(torch.empty(e, i, h))
        self.down_proj = nn.Parameter(torch.empty(e, h, i))
        self.shared_experts = MLP(h, i * c.n_shared_experts)
        self.register_buffer("bias", torch.zeros(e))
        self.load = torch.zeros(e)  # tokens per expert in the last forward pass

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Experts [tokens, k] and their weights [tokens, k] for x [tokens, hidden]; the bias only chooses."""
        c = self.c
        scores = F.linear(x, self.gate).sigmoid()
        with torch.no_grad():
            choice = (scores + self.bias).view(-1, c.n_group, c.n_routed_experts // c.n_group)
            best = choice.topk(2, dim=-1).values.sum(-1).topk(c.topk_group, dim=-1).indices
            keep = torch.zeros(choice.shape[:2], dtype=torch.bool).scatter_(1, best, True)
            choice = choice.masked_fill(~keep.unsqueeze(-1), -torch.inf).flatten(1)
            experts = choice.topk(c.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(1, experts)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor
        return experts, weights

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [rows, length, hidden]."""
        flat = x.reshape(-1, x.shape[-1])
        experts, weights = self.route(flat)
        order = experts.flatten().argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
        self.load = experts.flatten().bincount(minlength=self.c.n_routed_experts)
        k = self.c.num_experts_per_tok
        parts = _Scatter.apply(flat, order, inverse, k).split(self.load.tolist())
        done = [
            (F.silu(part @ gate.T) * (part @ up.T)) @ down.T
            for part, gate, up, down in zip(
                parts, self.gate_proj.unbind(), self.up_proj.unbind(), self.down_proj.unbind(), strict=True
            )
        ]
        back = _Gather.apply(torch.cat(done), order, inverse).view(-1, k, x.shape[-1])
        routed = (back * weights.unsqueeze(-1)).sum(1)
        return (routed + self.shared_experts(flat)).view_as(x)


class Block(nn.Module):
    """One decoder layer: attention, then a dense MLP or experts, each after a norm and added to the stream."""

    def __init__(self, c: ModelConfig, *, dense: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c.hidden_size, c.intermediate_size) if dense else MoE(c)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Apply to x [rows, length, hidden]."""
        x = x + self.self_attn(self.input_layernorm(x), layout)
        return x + self.mlp(self.post_attention_layernorm(x))


class MTP(nn.Module):
    """The draft layer: from the state at i and the token at i+1 it predicts the token at i+2.

    It takes the main model's state after the final norm; embedding and head are the main model's.
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.enorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.hnorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        self.block = Block(c, dense=False)
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, next_embed: Tensor, state: Tensor, layout: Layout) -> Tensor:
        """Normed state [rows, length, hidden] for the head."""
        joined = torch.cat((self.enorm(next_embed), self.hnorm(state)), dim=-1)
        return self.norm(self.block(self.eh_proj(joined), layout))


class Transformer(nn.Module):
    """The whole model; `forward` gives normed states, so that the caller decides where logits are worth computing."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(
            Block(c, dense=index < c.first_k_dense_replace) for index in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        self.mtp = MTP(c)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                continue
            if "embed_tokens" in name:
                nn.init.normal_(weight, std=0.3)
            elif "o_proj" in name or "down_proj" in name or "lm_head" in name:
                nn.init.normal_(weight, std=1e-3)  # a layer starts as almost nothing and earns its place
            else:
                nn.init.normal_(weight, std=0.8 * weight.shape[-1] ** -0.5)

    def layout(self, positions: Tensor, documents: Tensor) -> Layout:
        """Rotation and visibility for packed rows: a token sees earlier tokens of its own document only."""
        length = positions.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = documents.unsqueeze(2) == documents.unsqueeze(1)
        return Layout(rope_tables(positions, self.c), (same & causal).unsqueeze(1))

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """States after the final norm [rows, length, hidden] for tokens [rows, length]."""
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, layout)
        return self.norm(x)

    def draft(self, state: Tensor, tokens: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """MTP states [rows, length, hidden]: state i with the embedding of token i+1, which is zero at position 0."""
        shifted = self.embed_tokens(torch.roll(tokens, -1, dims=1))
        shifted = shifted.masked_fill((positions == 0).unsqueeze(-1), 0.0)
        return self.mtp(shifted, state, layout)

    def moe_layers(self) -> list[MoE]:
        """Every expert layer, the draft layer's included."""
        return [module for module in self.modules() if isinstance(module, MoE)]
