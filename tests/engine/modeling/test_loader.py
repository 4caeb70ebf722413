"""Loading: whole checkpoints load alike however they are stored, damaged ones are refused by file and tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.modeling.loader import load
from engine.modeling.tensors import expected_shapes
from engine.spec.config import Dtype, EngineConfig
from engine.spec.errors import CheckpointError
from engine.spec.memory import weight_counts
from engine.spec.model import read_spec
from tests.engine.arrangements import alone
from tests.engine.checkpoints import (
    VARIANTS,
    Config,
    make_checkpoint,
    make_config,
    make_tensors,
    store_dtypes,
    write_tensors,
)

IDS = torch.arange(3, 40, 4)


def _logits(path: Path, dtype: Dtype = "float32") -> Tensor:
    return alone(load(EngineConfig(str(path), kernels="reference", dtype=dtype)), IDS, 5)


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(EngineConfig(str(path)))
    assert caught.value.exit_code == 2
    return str(caught.value)


def _write(path: Path, config: Config, tensors: dict[str, Tensor], shards: int = 1) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    write_tensors(path, tensors, shards)
    return path


def _changed(path: Path, change: Callable[[dict[str, Tensor]], None], variant: str = "v3", **overrides: Any) -> Path:
    config = make_config(variant, **overrides)
    tensors = store_dtypes(config, make_tensors(config), torch.float32)
    change(tensors)
    return _write(path, config, tensors)


def test_shards_do_not_matter(tmp_path: Path) -> None:
    """One file and five files with an index give the same logits."""
    one = make_checkpoint(tmp_path / "one", "v3")
    five = make_checkpoint(tmp_path / "five", "v3", shards=5)
    assert len(list(five.glob("*.safetensors"))) == 5
    assert torch.equal(_logits(one), _logits(five))


def test_files_without_an_index_are_taken_together(tmp_path: Path) -> None:
    """Several shards load although the index was not copied."""
    path = make_checkpoint(tmp_path / "b", "v3", shards=3)
    (path / "model.safetensors.index.json").unlink()
    assert torch.equal(_logits(path), _logits(make_checkpoint(tmp_path / "a", "v3")))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bfloat16_rounds_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    """dtype bfloat16 means weights rounded to it, whatever type stores them; the routing bias stays exact."""
    path = make_checkpoint(tmp_path / "stored", "v3", dtype=dtype)
    config = make_config("v3")
    rounded = {
        name: tensor if "bias" in name else tensor.to(dtype).bfloat16().float()
        for name, tensor in make_tensors(config).items()
    }
    same = _write(tmp_path / "rounded", config, rounded)
    assert torch.equal(_logits(path, "bfloat16"), _logits(same, "float32"))


def test_mtp_layers_are_left_aside_and_counted(tmp_path: Path) -> None:
    """Tensors of the layer after the last change nothing; copies of embedding and head there may be absent."""
    path = make_checkpoint(tmp_path / "mtp", "v3-mtp")
    model = load(EngineConfig(str(path), kernels="reference", dtype="float32"))
    layer = [name for name in load_file(path / "model.safetensors") if name.startswith("model.layers.3.")]
    assert model.skipped_mtp_tensors == len(layer) > 0
    assert torch.equal(alone(model, IDS, 5), _logits(make_checkpoint(tmp_path / "plain", "v3")))

    def drop_copies(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.3.embed_tokens.weight"], tensors["model.layers.3.shared_head.head.weight"]

    assert (
        load(EngineConfig(str(_changed(tmp_path / "c", drop_copies, "v3-mtp")))).skipped_mtp_tensors == len(layer) - 2
    )


def test_tied_embeddings_may_repeat_the_head(tmp_path: Path) -> None:
    """With tie_word_embeddings the head is the embedding, even when a head is stored too."""
    path = make_checkpoint(tmp_path / "tied", "v3-tied")

    def add_head(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 0

    assert torch.equal(_logits(path), _logits(_changed(tmp_path / "both", add_head, "v3-tied")))


def test_dummy_weights_need_no_files(tmp_path: Path) -> None:
    """load_format dummy takes shapes from config.json alone."""
    (tmp_path / "config.json").write_text(json.dumps(make_config("v3")))
    model = load(EngineConfig(str(tmp_path), kernels="reference", load_format="dummy"))
    assert torch.isfinite(alone(model, IDS, 5)).all()
    assert "dummy" in model.numerics


def test_numerics_names_the_checkpoint(tmp_path: Path) -> None:
    """One changed weight, another dtype: another id; a copy of the files: the same id."""
    path = make_checkpoint(tmp_path / "a")
    first = load(EngineConfig(str(path), kernels="reference", dtype="float32")).numerics
    assert (
        load(EngineConfig(str(make_checkpoint(tmp_path / "b")), kernels="reference", dtype="float32")).numerics == first
    )
    assert load(EngineConfig(str(path), kernels="reference", dtype="bfloat16")).numerics != first
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"][3, 5] += 1
    save_file(tensors, path / "model.safetensors")
    assert load(EngineConfig(str(path), kernels="reference", dtype="float32")).numerics != first


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_counted(tmp_path: Path, variant: str) -> None:
    """The memory plan counts exactly the parameters that are loaded."""
    (tmp_path / "config.json").write_text(json.dumps(VARIANTS[variant]))
    spec = read_spec(tmp_path)
    sizes = [torch.Size(shape).numel() for shape in expected_shapes(spec).values()]
    assert weight_counts(spec).total == sum(sizes)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    """A file cut short is refused with its name, its last tensor and both sizes."""
    path = make_checkpoint(tmp_path, shards=2)
    shard = path / "model-00002-of-00002.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    message = _refusal(path)
    assert shard.name in message and "truncated" in message and f"{len(data) - 100} of {len(data)}" in message
    assert "tensor model." in message


@pytest.mark.parametrize("length", [0, 5, 8, 300])
def test_a_file_cut_in_its_header_is_named(tmp_path: Path, length: int) -> None:
    """Not even the header is whole."""
    path = make_checkpoint(tmp_path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert "model.safetensors is truncated" in _refusal(path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    """The pointer file says what to run."""
    path = make_checkpoint(tmp_path)
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in _refusal(path)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    """A header that is not JSON is refused as damage of that file."""
    path = make_checkpoint(tmp_path)
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:12] = b"\xff\xfe{{"
    file.write_bytes(bytes(data))
    assert "model.safetensors has a damaged header" in _refusal(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """The index lists a file that is not there."""
    path = make_checkpoint(tmp_path, shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors, which does not exist; 1 of 3 missing" in _refusal(path)


def test_an_index_that_lies_is_named(tmp_path: Path) -> None:
    """The index sends a tensor to a shard that does not hold it."""
    path = make_checkpoint(tmp_path, shards=2)
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))
    assert "holds tensor lm_head.weight, but it does not" in _refusal(path)
    index.write_text("{}")
    assert "is not an index" in _refusal(path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    """A directory without weights says what it should hold."""
    (tmp_path / "config.json").write_text(json.dumps(make_config()))
    assert "holds no *.safetensors" in _refusal(tmp_path)
    assert "config.json does not exist" in _refusal(tmp_path / "nowhere")


NAME = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [NAME, "model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias"])
def test_nan_is_refused_by_name(tmp_path: Path, name: str, bad: float) -> None:
    """One NaN or infinite value anywhere names file and tensor."""

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[7] = bad

    message = _refusal(_changed(tmp_path, spoil))
    assert f"model.safetensors: tensor {name} holds 1 NaN or infinite" in message


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """Name, shape and count of what is missing."""

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[NAME]

    message = _refusal(_changed(tmp_path, drop))
    assert f"tensor {NAME} of shape [40, 64] is missing (1 of" in message


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    """A tensor the model does not know is refused; an exporter's rotary buffer is not."""

    def add(name: str) -> Callable[[dict[str, Tensor]], None]:
        return lambda tensors: tensors.update({name: torch.ones(3)})

    message = _refusal(_changed(tmp_path / "a", add("model.layers.0.self_attn.extra.weight")))
    assert "tensor model.layers.0.self_attn.extra.weight of shape [3] is unknown" in message
    assert "model.layers.3.enorm.weight" in _refusal(_changed(tmp_path / "b", add("model.layers.3.enorm.weight")))
    load(EngineConfig(str(_changed(tmp_path / "c", add("model.layers.0.self_attn.rotary_emb.inv_freq")))))


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    """Both shapes are given."""

    def shrink(tensors: dict[str, Tensor]) -> None:
        tensors[NAME] = tensors[NAME][:-1].clone()

    assert f"tensor {NAME} has shape [39, 64], config.json says [40, 64]" in _refusal(_changed(tmp_path, shrink))


def test_a_wrong_type_is_named(tmp_path: Path) -> None:
    """Integer weights are not taken for numbers."""

    def to_int(tensors: dict[str, Tensor]) -> None:
        tensors[NAME] = tensors[NAME].to(torch.int8)

    assert f"tensor {NAME} has the type I8" in _refusal(_changed(tmp_path, to_int))


def test_fp8_needs_its_scales(tmp_path: Path) -> None:
    """A missing or misshapen scale, and FP8 without quantization_config, are refused by name."""

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{NAME}_scale_inv"]

    def cut(tensors: dict[str, Tensor]) -> None:
        tensors[f"{NAME}_scale_inv"] = tensors[f"{NAME}_scale_inv"][:1].clone()

    assert f"tensor {NAME}_scale_inv is missing" in _refusal(_changed(tmp_path / "a", drop, "v3-fp8"))
    message = _refusal(_changed(tmp_path / "b", cut, "v3-fp8"))
    assert f"{NAME}_scale_inv has shape [1, 2], blocks of [128, 128] in [144, 160] need [2, 2]" in message
    path = make_checkpoint(tmp_path / "c", "v3-fp8")
    config = json.loads((path / "config.json").read_text())
    del config["quantization_config"]
    (path / "config.json").write_text(json.dumps(config))
    assert "has no quantization_config" in _refusal(path)


def test_nan_in_a_scale_is_refused(tmp_path: Path) -> None:
    """A damaged scale shows in the values of its tensor."""

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[f"{NAME}_scale_inv"][1, 1] = float("nan")

    assert f"tensor {NAME} holds" in _refusal(_changed(tmp_path, spoil, "v3-fp8"))
