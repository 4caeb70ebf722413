"""compressed-tensors checkpoints: whole numbers as that format lays them out, against the same weights as floats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.modeling import loader
from engine.quant import compressed
from engine.spec.config import EngineConfig
from engine.spec.errors import CheckpointError
from engine.spec.model import read_spec, spec_from_config
from engine.spec.policy import resolve
from tests.engine.arrangements import alone
from tests.engine.checkpoints import make_checkpoint, make_config
from tests.engine.compiled import library

IDS = torch.randint(250, (40,), generator=torch.Generator().manual_seed(5))
Layout = tuple[int, int, bool]  # bits, group (0: channel), packed
LAYOUTS: dict[str, Layout] = {
    "int8": (8, 0, False),
    "int8-packed": (8, 0, True),
    "int4-32": (4, 32, True),
    "int4-64": (4, 64, True),
    "int4-channel": (4, 0, True),
    "int8-32": (8, 32, False),
}


def packed(q: np.ndarray[Any, Any], bits: int) -> Tensor:
    """32 / bits values a word, the first in the lowest bits, shifted to be positive: written out by hand."""
    per_word = 32 // bits
    words = np.zeros((q.shape[0], -(-q.shape[1] // per_word)), dtype=np.uint32)
    for column in range(q.shape[1]):
        value = (q[:, column].astype(np.int64) + 2 ** (bits - 1)).astype(np.uint32)
        words[:, column // per_word] |= value << np.uint32(bits * (column % per_word))
    return torch.from_numpy(words.view(np.int32))


def quantised(weight: Tensor, layout: Layout) -> tuple[dict[str, Tensor], Tensor]:
    """What stands in a checkpoint for a weight, by ending, and the values it has."""
    bits, group, is_packed = layout
    w = weight.double().numpy()
    parts = w.reshape(w.shape[0], -1, group or w.shape[1])
    most = 2 ** (bits - 1) - 1
    scale = torch.from_numpy(np.abs(parts).max(-1) / most).bfloat16().clamp_min(1e-8)
    q = np.rint(parts / scale.double().numpy()[..., None]).clip(-most, most).reshape(w.shape).astype(np.int8)
    group = group or w.shape[1]
    values = torch.from_numpy(q).float() * scale.float().repeat_interleave(group, dim=1)
    if not is_packed:
        return {"": torch.from_numpy(q), "_scale": scale}, values
    return {"_packed": packed(q, bits), "_scale": scale, "_shape": torch.tensor(w.shape)}, values


def config_of(layout: Layout) -> dict[str, Any]:
    """A quantization_config as its producers write it."""
    bits, group, is_packed = layout
    weights: dict[str, Any] = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, "actorder": None}
    weights |= {"strategy": "group", "group_size": group} if group else {"strategy": "channel", "group_size": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if is_packed else "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head", "re:.*mlp\\.gate$", "re:.*self_attn.*"],
        "kv_cache_scheme": None,
    }


def both(folder: Path, layout: Layout, change: Callable[[dict[str, Tensor]], None] | None = None) -> tuple[Path, Path]:
    """A checkpoint of whole numbers, and one of the same values as floats."""
    sizes = {"hidden_size": 64, "moe_intermediate_size": 64, "intermediate_size": 128}
    plain, whole = (make_checkpoint(folder / name, "v3", **sizes) for name in ("plain", "whole"))
    tensors, values = load_file(plain / "model.safetensors"), load_file(plain / "model.safetensors")
    for name in list(tensors):
        if ".mlp." in name and name.endswith("_proj.weight"):
            parts, values[name] = quantised(tensors.pop(name), layout)
            tensors |= {name + ending: tensor for ending, tensor in parts.items()}
    if change is not None:
        change(tensors)
    save_file(values, plain / "model.safetensors")
    save_file(tensors, whole / "model.safetensors")
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({**config, "quantization_config": config_of(layout)}))
    return whole, plain


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_those_of_the_floats(tmp_path: Path, layout: str) -> None:
    """As floats: the same bits. As the checkpoint's own numbers: the same bits where the engine has their format."""
    whole, plain = both(tmp_path, LAYOUTS[layout])

    def logits(path: Path, quantization: str = "auto") -> Tensor:
        config = EngineConfig(str(path), dtype="float32", kernels="reference", quantization=quantization)
        return alone(loader.load(config), IDS, 30)

    right = logits(plain)
    assert torch.equal(logits(whole, "none"), right)
    policy = resolve("auto", whole, read_spec(whole))
    assert (policy.attention, policy.head) == ("none", "none")
    assert {policy.dense, policy.shared, policy.routed} == {"int4" if layout in ("int4-32", "int4-64") else "int8"}
    own = logits(whole)
    if layout in ("int8", "int8-packed", "int4-32", "int4-64"):
        assert torch.equal(own, right)
    assert (own - right).abs().median() < 0.1 * right.std()  # now and then a rounding chooses another expert


@pytest.mark.parametrize("layout", ["int8", "int4-32"])
def test_kernels_compute_with_the_very_numbers(
    tmp_path: Path, layout: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packed weights are the checkpoint's whole numbers and scales, group included, not requantised ones."""
    monkeypatch.setattr(loader, "load_library", lambda: library(request.config, None))
    whole, _ = both(tmp_path, LAYOUTS[layout])
    tensors = load_file(whole / "model.safetensors")
    with loader.opened(EngineConfig(str(whole), kernels="cpu")) as builder:
        assert isinstance(builder, loader.FusedBuilder)
        matrix = (
            builder.parts()
            ._mlps("model.layers.1.mlp.", ["experts.0.", "experts.1."], "int8" if layout == "int8" else "int4")
            .down
        )
    name = "model.layers.1.mlp.experts.1.down_proj.weight"
    if layout == "int8":
        from engine.quant.int8 import unpack

        assert torch.equal(unpack(matrix).q[1], tensors[name])
        assert torch.equal(unpack(matrix).scale[1], tensors[f"{name}_scale"].float()[:, 0])
    else:
        from engine.quant.int4 import unpack

        assert unpack(matrix).group == 32
        assert torch.equal(packed(unpack(matrix).q[1].numpy().astype(np.int8) - 8, 4), tensors[f"{name}_packed"])
        assert torch.equal(unpack(matrix).scale[1], tensors[f"{name}_scale"])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [1, 7, 8, 33])
def test_packing_is_the_formats(bits: int, inputs: int) -> None:
    """Every value, odd widths included, there and back; the words are those written by hand."""
    generator = torch.Generator().manual_seed(inputs)
    q = torch.randint(-(1 << bits - 1), 1 << bits - 1, (5, inputs), generator=generator).to(torch.int8)
    assert torch.equal(compressed.pack(q, bits), packed(q.numpy(), bits))
    assert torch.equal(compressed.unpack(compressed.pack(q, bits), bits, inputs), q)


NAME = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}_scale"), f"tensor {NAME}_packed has the type I32, but {NAME}_scale"),
        (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"][:, :1].repeat(1, 3)}), "where groups divides 64"),
        (lambda t: t.update({f"{NAME}_packed": t[f"{NAME}_packed"][:, :3].clone()}), r"packed is \[64, 8\]"),
        (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"] * torch.nan}), "holds 128 NaN"),
        (lambda t: t.update({f"{NAME}_zero_point": torch.zeros(64, 2)}), f"{NAME}_zero_point of shape .* is unknown"),
        (lambda t: t.pop(f"{NAME}_packed"), f"tensor {NAME} of shape .* is missing"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str) -> None:
    """Missing, misshapen and senseless parts are refused by name."""
    whole, _ = both(tmp_path, LAYOUTS["int4-32"], change)
    with pytest.raises(CheckpointError, match=message):
        loader.load(EngineConfig(str(whole)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "marlin-24"}, "format is 'marlin-24'; supported: int-quantized, pack-quantized"),
        ({"quantization_status": "frozen"}, "quantization_status is 'frozen'"),
        ({"config_groups": {}}, "config_groups is {}"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"weights": {"symmetric": False}}, "weights.symmetric is False; supported: True"),
        ({"weights": {"num_bits": 3}}, "weights.num_bits is 3; supported: 4, 8"),
        ({"weights": {"type": "float"}}, "weights.type is 'float'"),
        ({"weights": {"strategy": "tensor"}}, "weights.strategy is 'tensor'; supported: channel, group"),
        ({"weights": {"actorder": "group"}}, "weights.actorder is 'group'"),
        ({"weights": {"strategy": "group", "group_size": 0}}, "weights.group_size is 0"),
        ({"targets": ["re:("]}, "is no regular expression"),
    ],
)
def test_what_is_not_read_is_refused(change: dict[str, Any], message: str) -> None:
    """Other kinds of compression are named, with what is supported."""
    document = config_of(LAYOUTS["int8"])
    group = document["config_groups"]["group_0"]
    group["weights"] |= change.pop("weights", {})
    group["targets"] = change.pop("targets", group["targets"])
    with pytest.raises(CheckpointError, match=message.replace("{}", r"\{\}")):
        spec_from_config({**make_config("v3"), "quantization_config": {**document, **change}})
