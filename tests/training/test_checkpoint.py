"""The exported checkpoint is the trained model, and other software reads it the same way."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import export, optim, train
from training.model import ModelConfig, Transformer

SMALL = ModelConfig(
    vocab_size=128, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=3, q_lora_rank=32,
    kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
)  # fmt: skip


def lively(config: ModelConfig) -> Transformer:
    """A model with random weights in which every part matters, rounded to bfloat16."""
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.uniform_(0.5, 1.5)
            weight.copy_(weight.bfloat16())
        for moe in model.moe_layers():
            moe.bias.normal_(std=0.1)
    return model


def test_an_exported_model_comes_back_equal(tmp_path: Path) -> None:
    """Every tensor survives export and load, the draft layer's included."""
    model = lively(SMALL)
    export.export(model, tmp_path)
    again = export.load(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name


def test_the_names_are_the_published_ones(tmp_path: Path) -> None:
    """The draft layer sits behind the last layer, without copies of embedding and head; the bias keeps fp32."""
    export.export(lively(SMALL), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    assert tensors["model.layers.1.mlp.experts.7.down_proj.weight"].shape == (64, 32)
    assert tensors["model.layers.3.eh_proj.weight"].shape == (64, 128)
    assert "model.layers.3.shared_head.norm.weight" in tensors
    assert "model.layers.3.shared_head.head.weight" not in tensors
    assert "model.layers.3.embed_tokens.weight" not in tensors


def test_logits_equal_those_of_transformers(tmp_path: Path) -> None:
    """On random weights the two implementations differ by less than 1e-4 of the logits' standard deviation."""
    transformers = pytest.importorskip("transformers")
    model = lively(SMALL)
    export.export(model, tmp_path)
    other = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, 128, (2, 150))
    positions = torch.arange(150).repeat(2, 1)
    with torch.no_grad():
        ours = model.lm_head(model(tokens, model.layout(positions, torch.zeros_like(tokens))))
        theirs = other(tokens).logits
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.std())


def test_orthogonalising_evens_out_singular_values() -> None:
    """Whatever the shape, the singular values of the update lie around 1."""
    torch.manual_seed(1)
    for shape in ((2, 32, 64), (2, 64, 32), (1, 48, 48)):
        values = torch.linalg.svdvals(optim.orthogonalise(torch.randn(shape)))
        assert float(values.max()) < 1.6
        assert float(values.median()) > 0.5


def test_a_saved_state_is_resumed(tmp_path: Path) -> None:
    """Weights, moments and progress come back from a checkpoint."""
    shared = shared_state(1.0)
    path = tmp_path / "state.safetensors"
    train.save_state(path, shared, {"seconds": 5.0, "steps": 3, "tokens": 9})
    other = shared_state(0.0)
    assert train.load_state(path, other) == {"seconds": 5.0, "steps": 3, "tokens": 9}
    assert other.optimizer.steps == 3
    assert torch.equal(other.model.norm.weight, shared.model.norm.weight)
    assert all(bool((slot.first == 1).all()) for slot in other.optimizer.slots)


def shared_state(fill: float) -> train.Shared:
    """A shared state whose weights' norms and moments are `fill`."""
    model = Transformer(SMALL).share_memory()
    optimizer = optim.Optimizer(model, 1, muon_lr=0.02, adam_lr=0.003)
    with torch.no_grad():
        model.norm.weight.fill_(fill)
    for slot in optimizer.slots:
        slot.first.fill_(fill)
    return train.Shared(model, optimizer, torch.zeros(1), torch.zeros(1), torch.zeros(1), train.barrier(1))


def test_training_lowers_the_loss() -> None:
    """A few steps on one batch make it likelier."""
    torch.manual_seed(2)
    model = Transformer(SMALL)
    optimizer = optim.Optimizer(model, 1, muon_lr=0.02, adam_lr=0.003)
    batch = train.Batch(
        tokens=torch.randint(0, 128, (2, 32)),
        positions=torch.arange(32).repeat(2, 1),
        documents=torch.zeros(2, 32, dtype=torch.long),
        targets=torch.randint(0, 128, (2, 32)),
        drafts=torch.randint(0, 128, (2, 32)),
    )
    losses: list[float] = []
    for _ in range(12):
        main, draft = train.loss(model, batch)
        (main + draft).backward()
        losses.append(float(main.detach()))
        optimizer.publish(0)
        optimizer.step(0, 1.0)
    assert losses[-1] < 0.7 * losses[0]


def test_arguments_have_the_documented_defaults() -> None:
    """The command of the README works with no more than `--out`."""
    args = train.arguments(["--out", "somewhere"])
    assert isinstance(args, argparse.Namespace)
    assert (args.minutes, args.threads, args.seed) == (56, 2, 1)
