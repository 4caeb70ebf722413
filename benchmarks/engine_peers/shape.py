"""The measured model's shape, and what a step of it must read and compute: the limit that no engine can pass."""

from __future__ import annotations

from dataclasses import dataclass

CONFIG = {  # 904 M parameters, 205 M of them active
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "moe_intermediate_size": 704,
    "num_hidden_layers": 12,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 384,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SPECIALS = 6  # the first ids are bos, eos and the like; prompts never use them
PROMPT, ANSWER = 128, 64
BATCHES = (1, 8, 32)
PREFILLS = ((1, 512), (8, 128))  # prompts × tokens

BYTES = {  # of one weight with its scales: (routed experts, everything else)
    "bf16": (2.0, 2.0),
    "int8": (1.0, 1.0),
    "int4": (0.5 + 2 / 128, 1.0),
    "Q8_0": (34 / 32, 34 / 32),  # blocks of 32 with a two-byte scale
    "Q4_0": (18 / 32, 18 / 32),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of parameters, by what decides whether a step reads them."""

    hidden: int
    layers: int
    moe_layers: int
    experts: int
    top_k: int
    always: int  # parameters that every step reads: attention, dense and shared MLPs, router, head
    expert: int  # parameters of one routed expert
    embedding: int  # of the table, and of the head, which has the same shape
    latent: int  # values cached for a token and layer

    @property
    def total(self) -> int:
        """All parameters."""
        return self.always + self.embedding + self.moe_layers * self.experts * self.expert

    @property
    def active(self) -> int:
        """Parameters that one token multiplies with."""
        return self.always + self.moe_layers * self.top_k * self.expert

    def expected_distinct(self, rows: int) -> float:
        """Experts of a layer that `rows` tokens visit when each chooses at random."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** rows)


def shape_of(config: dict[str, object]) -> Shape:
    """The shape that a config.json describes."""

    def size(name: str) -> int:
        value = config[name]
        if not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; the arithmetic needs a number")
        return value

    hidden, layers, dense, heads = map(
        size, ("hidden_size", "num_hidden_layers", "first_k_dense_replace", "num_attention_heads")
    )
    nope, rope, value = map(size, ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    q_rank, rank, vocab = map(size, ("q_lora_rank", "kv_lora_rank", "vocab_size"))
    attention = hidden * (q_rank + rank + rope) + q_rank * heads * (nope + rope)
    attention += rank * heads * (nope + value) + heads * value * hidden
    expert = 3 * hidden * size("moe_intermediate_size")
    moe = layers - dense
    always = layers * attention + dense * 3 * hidden * size("intermediate_size") + vocab * hidden
    always += moe * (size("n_shared_experts") * expert + size("n_routed_experts") * hidden)
    return Shape(
        hidden=hidden,
        layers=layers,
        moe_layers=moe,
        experts=size("n_routed_experts"),
        top_k=size("num_experts_per_tok"),
        always=always,
        expert=expert,
        embedding=vocab * hidden,
        latent=rank + rope,
    )


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine gives: bytes read per second, and operations per second in the format's arithmetic."""

    read: float
    operations: float


@dataclass(frozen=True, slots=True)
class Limit:
    """Tokens per second that a perfect engine would reach."""

    overlapped: float  # reading hides behind computing, or the other way round
    in_turn: float  # one after the other


def step_bytes(shape: Shape, weights: str, distinct: float) -> float:
    """Bytes of weights that one step reads when it visits `distinct` experts in every MoE layer."""
    routed, rest = BYTES[weights]
    return shape.always * rest + shape.moe_layers * distinct * shape.expert * routed


def limit(shape: Shape, weights: str, rates: Rates, rows: int, distinct: float, heads: int | None = None) -> Limit:
    """The limit of a step with `rows` tokens of which `heads` (default: all) ask for logits.

    Reading the latent cache and computing attention over it are left out, small at these lengths.
    """
    reading = step_bytes(shape, weights, distinct) / rates.read
    heads = rows if heads is None else heads
    computing = 2 * ((shape.active - shape.embedding) * rows + shape.embedding * heads) / rates.operations
    return Limit(rows / max(reading, computing), rows / (reading + computing))


def arithmetic_of(weights: str) -> str:
    """The kind of operation that weights of this format are multiplied with: int8 or bf16."""
    return "bf16" if weights == "bf16" else "int8"
