"""Prints docs/LAYOUTS.md: which divisions of published models fit on which cards (`python -m benchmarks.layouts`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.sharding import Card, Layout, feasible, rank_bytes, served_format

LEAST_TOKENS = 32 << 10
WORLDS = (1, 2, 4, 8, 16)
CARDS = (
    Card("A100 40 GB", 40 * 10**9, (8, 0), 1.555e12),
    Card("A100 80 GB", 80 * 10**9, (8, 0), 2.039e12),
    Card("H100 80 GB", 80 * 10**9, (9, 0), 3.35e12),
    Card("H200", 141 * 10**9, (9, 0), 4.8e12),
    Card("B200", 180 * 10**9, (10, 0), 8.0e12),
)
_SHARED: dict[str, Any] = {
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "hidden_act": "silu",
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "V2-Lite (bf16)": {
        **_SHARED, "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27,
        "first_k_dense_replace": 1, "num_attention_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6,
        "n_shared_experts": 2, "moe_intermediate_size": 1408, "intermediate_size": 10944, "vocab_size": 102400,
        "q_lora_rank": None, "topk_method": "greedy",
    },
    "V3 / R1 (FP8)": {
        **_SHARED, "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
        "first_k_dense_replace": 3, "num_attention_heads": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "moe_intermediate_size": 2048, "intermediate_size": 18432, "vocab_size": 129280,
        "q_lora_rank": 1536, "n_group": 8, "topk_group": 4,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    },
}  # fmt: skip
HEADING = f"""# Layouts — which divisions fit on which cards

Printed by `python -m benchmarks.layouts` from the arithmetic of engine/spec/sharding.py; nothing here was run. Weights
and cache of the fullest rank in GB (10⁹ bytes), and the tokens of cache there is room for on each rank; a division is
listed when that is at least {LEAST_TOKENS}. The cache of a token is held by every tensor and expert rank of its stage.
Cards without 8-bit float units hold FP8 checkpoints as int8, and cannot run them otherwise; 2.5 GiB a card, 3 with more
than one rank, are set aside for driver, collectives, graphs and activations.
"""


def table() -> Iterator[str]:
    """The document, line by line."""
    yield HEADING
    for name, config in MODELS.items():
        spec = spec_from_config(config, name)
        yield f"## {name}\n"
        yield "| card | cards | held as | tensor × expert × pipeline | weights | KB a token | tokens |"
        yield "|---|---|---|---|---|---|---|"
        for card in CARDS:
            yield from _rows(spec, card)
        yield ""


def _rows(spec: ModelSpec, card: Card) -> Iterator[str]:
    wanted = served_format(spec, card)
    shown = 0
    for world in WORLDS:
        if shown < 2:  # the smallest numbers of cards that fit, and the next one: more always fit
            best = feasible(spec, card, wanted, world, LEAST_TOKENS)[:3]
            shown += bool(best)
            for layout, tokens in best:
                yield _row(spec, card, wanted, layout, tokens)
    if not shown:
        yield f"| {card.name} | – | {wanted} | none up to {WORLDS[-1]} cards | | | |"


def _row(spec: ModelSpec, card: Card, wanted: Any, layout: Layout, tokens: int) -> str:
    found = rank_bytes(spec, layout, wanted)
    axes = f"{layout.tensor} × {layout.expert} × {layout.pipeline}"
    sizes = f"{found.weights / 1e9:.1f} | {found.per_token / 1e3:.1f} | {tokens // 1000} k"
    return f"| {card.name} | {layout.world} | {wanted} | {axes} | {sizes} |"


def main() -> None:
    """Print it."""
    print("\n".join(table()).rstrip())


if __name__ == "__main__":
    main()
