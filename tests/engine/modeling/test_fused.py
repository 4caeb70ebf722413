"""The model on compiled kernels: the reference's logits on every variant, and bits that depend on nothing else."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import engine.spec.memory
from engine.kernels.cpu.library import Library
from engine.modeling import loader
from engine.modeling.deepseek import Model
from engine.modeling.fused import FusedModel
from engine.modeling.selfcheck import check
from engine.spec.config import Dtype, EngineConfig
from engine.spec.errors import ConfigError
from engine.spec.memory import weight_bytes, weight_counts
from engine.spec.model import ModelSpec
from engine.spec.policy import resolve
from tests.engine.arrangements import Span, Tokens, alone, step
from tests.engine.checkpoints import VARIANTS, make_checkpoint
from tests.engine.compiled import BUILDS, library

QUANTIZATIONS: list[str] = ["none", "int8", "int4"]


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    """What `kernels="cpu"` loads."""
    chosen = library(request.config, None)
    monkeypatch.setattr(loader, "load_library", lambda: chosen)
    return chosen


def fused(path: Path, dtype: Dtype = "float32", quantization: str = "none", **settings: int) -> FusedModel:
    """Load on compiled kernels."""
    model = loader.load(EngineConfig(str(path), dtype=dtype, kernels="cpu", quantization=quantization, **settings))
    assert isinstance(model, FusedModel)
    return model


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models computed as large ones are: bfloat16 weights, float16 latents."""
    monkeypatch.setattr(engine.spec.memory, "FLOAT32_WEIGHTS_LIMIT", 0)
    monkeypatch.setattr(engine.spec.memory, "FLOAT32_CACHE_LIMIT", 0)


def tokens_of(model: Model | FusedModel, length: int) -> Tensor:
    """Random ids."""
    return torch.randint(model.spec.vocab_size, (length,), generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_reference(tmp_path: Path, variant: str) -> None:
    """Prompt and generated rows of every variant in float32."""
    path = make_checkpoint(tmp_path, variant)
    reference = loader.load(EngineConfig(str(path), dtype="float32", kernels="reference", quantization="none"))
    ids = tokens_of(reference, 60)
    right = alone(reference, ids, 50)
    found = alone(fused(path), ids, 50)
    assert (found - right).abs().max() <= 1e-4 * right.std()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("variant", ["v3", "v2-greedy"])
def test_every_build_is_the_reference(
    tmp_path: Path, variant: str, build: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVX2 and portable code too; with a float16 cache and bfloat16 weights to their precision."""
    monkeypatch.setattr(loader, "load_library", lambda: library(request.config, build))
    path = make_checkpoint(tmp_path, variant)
    reference = loader.load(EngineConfig(str(path), dtype="float32", kernels="reference"))
    ids = tokens_of(reference, 40)
    right = alone(reference, ids, 30)
    assert (alone(fused(path), ids, 30) - right).abs().max() <= 1e-4 * right.std()
    narrow(monkeypatch)
    found = alone(fused(path, "bfloat16"), ids, 30)
    assert fused(path, "bfloat16").cache_dtype == torch.float16
    rounded = alone(loader.load(EngineConfig(str(path), dtype="bfloat16", kernels="reference")), ids, 30)
    assert ((found - rounded).abs() / right.std()).flatten().kthvalue(int(0.9 * found.numel())).values <= 1e-3


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("variant", ["v3", "v2-group", "v2-greedy-qlora"])
@pytest.mark.parametrize("numbers", ["float32", "narrow"])
def test_bits_are_rowwise(
    tmp_path: Path, variant: str, numbers: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks, replay, companions and threads change no bit of any logit, quantised or not."""
    if numbers == "narrow":
        narrow(monkeypatch)
    model = fused(make_checkpoint(tmp_path, variant), "float32" if numbers == "float32" else "bfloat16", quantization)
    assert check(model) == ""


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_long_contexts(tmp_path: Path, quantization: str) -> None:
    """Beyond a part (256 positions) and a window (512): the reference's logits; chunks and replay to the bit."""
    path = make_checkpoint(tmp_path, "v3", max_position_embeddings=2048)
    model = fused(path, quantization=quantization)
    ids, prompt = tokens_of(model, 612), 600
    whole = alone(model, ids, prompt)
    assert torch.equal(alone(model, ids, prompt, chunk=250, block_size=7), whole)
    cache = model.new_cache(40, 16)
    sequence = Tokens(ids, 200, torch.arange(40).flip(0))  # generated early: replayed in two pieces
    pieces = [step(model, cache, [Span(sequence, *ends)])[0] for ends in ((0, 200), (200, 500), (500, 612))]
    slow = alone(model, ids, 200)
    assert torch.equal(torch.cat(pieces), slow)
    if quantization == "none":
        right = alone(loader.load(EngineConfig(str(path), dtype="float32", kernels="reference")), ids, prompt)
        assert (whole - right).abs().max() <= 1e-4 * right.std()


def test_more_rows_than_may_wait(tmp_path: Path) -> None:
    """So many generated rows that attention takes them in groups: the bits of fewer rows at a time."""
    big = {"kv_lora_rank": 512, "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 1}
    model = fused(make_checkpoint(tmp_path, "v3", max_position_embeddings=2048, **big))
    ids, ends = tokens_of(model, 1100), [[800, 1100], [800, 900, 1000, 1100]]
    cache = model.new_cache(69, 16)
    sequence = Tokens(ids, 800, torch.arange(69))
    step(model, cache, [Span(sequence, 0, 800)])
    runs = [[step(model, cache, [Span(sequence, *pair)])[0] for pair in itertools.pairwise(cuts)] for cuts in ends]
    assert torch.equal(torch.cat(runs[0]), torch.cat(runs[1]))


def test_one_step_of_both_roles_in_any_order(tmp_path: Path) -> None:
    """Generated rows before, between and after prompt rows give what separate steps give."""
    model = fused(make_checkpoint(tmp_path), quantization="int8")
    ids = tokens_of(model, 40)
    expected = [alone(model, ids, prompt) for prompt in (20, 30)]
    cache = model.new_cache(16, 16)
    first, second = Tokens(ids, 20, torch.arange(4)), Tokens(ids, 30, torch.arange(4, 8))
    step(model, cache, [Span(first, 0, 25)])
    mixed = step(model, cache, [Span(first, 25, 27), Span(second, 0, 10), Span(first, 27, 28)])
    assert torch.equal(mixed[0], expected[0][25:27])
    assert torch.equal(mixed[1], expected[1][:10])
    assert torch.equal(mixed[2], expected[0][27:28])


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_without_a_compiler(tmp_path: Path, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference computes with the same rounded weights; only activations keep more bits."""
    path = make_checkpoint(tmp_path, "v2-greedy")
    found = fused(path, quantization=quantization)
    monkeypatch.setattr(loader, "load_library", lambda: None)
    slow = loader.load(EngineConfig(str(path), dtype="float32", quantization=quantization))
    assert isinstance(slow, Model)
    ids = tokens_of(slow, 40)
    right = alone(slow, ids, 30)
    assert ((alone(found, ids, 30) - right).abs() / right.std()).median() < 5e-2
    assert slow.numerics != found.numerics


def test_names_of_the_arithmetic_differ(tmp_path: Path, kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, instruction set and quantisation are parts of the numerics string."""
    path = make_checkpoint(tmp_path)
    names = {loader.load(EngineConfig(str(path), dtype="float32", kernels="reference")).numerics}
    names |= {fused(path, quantization=quantization).numerics for quantization in QUANTIZATIONS}
    monkeypatch.setattr(kernels, "isa", "another")
    names.add(fused(path).numerics)
    assert len(names) == 5


def test_weights_shrink(tmp_path: Path) -> None:
    """Eight bits are less than 62 % of sixteen, four bits less than eight, on matrices without much padding."""
    path = make_checkpoint(tmp_path, "v3", hidden_size=256, moe_intermediate_size=128, vocab_size=1024)
    sizes = {q: sum(layer.nbytes for layer in fused(path, quantization=q).layers) for q in QUANTIZATIONS}
    assert sizes["int8"] < 0.62 * sizes["none"] / 2
    assert sizes["int4"] < 0.9 * sizes["int8"]


def _vectors(spec: ModelSpec) -> int:
    """Values of norms and of the router's biases."""
    biases = (spec.num_layers - spec.dense_layers) * spec.router.experts if spec.router.method == "noaux_tc" else 0
    return weight_counts(spec).norms + biases


@pytest.mark.parametrize("numbers", ["float32", "narrow"])
@pytest.mark.parametrize("variant", ["v3", "v2-greedy", "v3-tied", "v3-fp8"])
def test_the_plan_is_what_is_held(tmp_path: Path, variant: str, numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of weights by arithmetic are the loaded model's to the byte, for every policy; norms and biases aside."""
    if numbers == "narrow":
        narrow(monkeypatch)
    path = make_checkpoint(tmp_path, variant)
    mixed = tmp_path / "mixed.json"
    layers = {"1": {"routed": "int4", "attention": "int8"}, "2": {"shared": "none"}}
    mixed.write_text(
        json.dumps({"schema_version": 1, "formats": {"routed": "int8", "shared": "int8"}, "layers": layers})
    )
    dtype: Dtype = "bfloat16" if numbers == "narrow" else "float32"
    for quantization in ("none", "int8", "int4", str(mixed)):
        model = fused(path, dtype, quantization)
        policy = resolve(quantization, path, model.spec)
        assert weight_bytes(model.spec, dtype, policy, packed=True) == model.weight_bytes + 4 * _vectors(model.spec)


def test_sizes_beyond_the_kernels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dimension that a kernel's buffer cannot hold is an error with the way out, not an overflow."""
    monkeypatch.setattr(
        "engine.modeling.fused._MOST", {"kv_rank + rope_dim": 4096, "nope_dim + rope_dim": 8, "experts": 9}
    )
    with pytest.raises(ConfigError, match=r"nope_dim \+ rope_dim is 24.*set kernels to auto"):
        fused(make_checkpoint(tmp_path))


def test_packed_weights_are_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache file: the same bits, and no matrix of the checkpoint is read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = make_checkpoint(tmp_path / "model", "v3-fp8")
    direct = fused(path, quantization="int4")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(loader, "PACK_FROM", 0)
    first = fused(path, quantization="int4")
    monkeypatch.setattr("engine.modeling.fused.convert", None)
    second = fused(path, quantization="int4")
    ids = tokens_of(direct, 30)
    right = alone(direct, ids, 20)
    assert direct.numerics == first.numerics == second.numerics
    assert torch.equal(alone(first, ids, 20), right)
    assert torch.equal(alone(second, ids, 20), right)
