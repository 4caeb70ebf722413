"""Quantisation policies: named ones, files with their refusals, and what `auto` means for a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.spec.config import EngineConfig
from engine.spec.errors import ConfigError
from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.policy import DEFAULT, FILE, NAMED, Policy, read_policy, resolve, units
from tests.engine.checkpoints import make_config

RIGHT: dict[str, Any] = {
    "schema_version": 1,
    "formats": {"routed": "int4", "shared": "int8"},
    "layers": {"2": {"routed": "int8", "attention": "int8"}},
}


def _spec(variant: str = "v3") -> ModelSpec:
    return spec_from_config(make_config(variant))


def _write(folder: Path, document: object) -> Path:
    path = folder / FILE
    path.write_text(json.dumps(document))
    return path


def test_a_file_says_what_it_says(tmp_path: Path) -> None:
    """Classes, exceptions by layer, names of tensors; written out and read again it is the same policy."""
    policy = read_policy(_write(tmp_path, RIGHT), _spec())
    names = ["mlp.experts.3.up_proj", "self_attn.o_proj", "mlp.shared_experts.up_proj", "mlp.gate_proj"]
    assert [policy.of_tensor(f"model.layers.2.{name}.weight") for name in names] == ["int8", "int8", "int8", "none"]
    assert [policy.of_tensor(f"model.layers.1.{name}.weight") for name in names] == ["int4", "none", "int8", "none"]
    assert policy.of_tensor("lm_head.weight") == "none"
    assert read_policy(_write(tmp_path, policy.document()), _spec()) == policy
    assert policy.name != replace(policy, head="int8").name
    assert {NAMED[name].name for name in NAMED} == set(NAMED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": {"router": "int8"}}, r"formats: unknown key 'router'; did you mean routed"),
        ({"formats": {"routed": "int5"}}, r"formats.routed is 'int5'; choose none, int8, int4"),
        ({"layer": {}}, r"unknown key 'layer'; did you mean layers"),
        ({"schema_version": 2}, r"schema_version is 2; this engine reads 1"),
        ({"layers": {"3": {"routed": "int8"}}}, r"layers.3: the model has layers 0 … 2"),
        ({"layers": {"1": {"head": "int8"}}}, r"layers.1.head: the head belongs to no layer"),
        ({"layers": []}, r"layers must be an object"),
        ({"formats": []}, r"formats must be an object"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """File, key and a value that would work."""
    path = _write(tmp_path, {**RIGHT, **change})
    with pytest.raises(ConfigError, match=message) as caught:
        read_policy(path, _spec())
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A missing file, no JSON, no object; and a setting that is neither a name nor a file."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / FILE, _spec())
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / FILE, _spec())
    with pytest.raises(ConfigError, match="an object with the keys"):
        read_policy(_write(tmp_path, []), _spec())
    with pytest.raises(
        ConfigError, match=r"quantization is 'int5'; choose auto, none, int8, int4 or name a policy file"
    ):
        EngineConfig("model", quantization="int5")


def test_auto_is_what_the_checkpoint_says(tmp_path: Path) -> None:
    """Its policy file first; FP8 blocks become the default policy; everything else stays. A setting overrules all."""
    assert resolve("auto", tmp_path, _spec()) == Policy()
    assert resolve("auto", tmp_path, _spec("v3-fp8")) == DEFAULT
    path = _write(tmp_path, RIGHT)
    assert resolve("auto", tmp_path, _spec("v3-fp8")) == read_policy(path, _spec())
    assert resolve("none", tmp_path, _spec("v3-fp8")) == Policy()
    assert resolve(str(path), tmp_path / "elsewhere", _spec()) == read_policy(path, _spec())


def test_every_unit_can_be_excepted() -> None:
    """Classes and layers of a model, each once; an exception changes that unit alone."""
    found = units(_spec())
    assert found == [
        ("attention", 0), ("dense", 0),
        ("attention", 1), ("shared", 1), ("routed", 1),
        ("attention", 2), ("shared", 2), ("routed", 2),
        ("head", 0),
    ]  # fmt: skip
    for kind, layer in found:
        policy = Policy().with_layer(layer, kind, "int8")
        assert [unit for unit in found if policy.of(*unit) == "int8"] == [(kind, layer)]
        assert policy.is_quantised
        assert not policy.with_layer(layer, kind, "none").is_quantised
