"""The solver: what it proposes fits, one block more would not, known models have known sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsctl.doctor import shapes, solver
from dsctl.doctor.serving import canonical, from_command, from_repr

GIB = float(1 << 30)


@given(st.floats(0.5, 200), st.floats(0.05, 200), st.integers(1024, 2_000_000))
@settings(max_examples=300, deadline=None)
def test_the_proposed_length_fits(need: float, avail: float, max_len: int) -> None:
    """The length fits with 2 % to spare, and is not shorter than that by more than a block."""
    found = solver.shorter(need, avail, max_len)
    if found is None:
        return
    length, per_token = int(found.suggested), need / max_len
    assert length * per_token <= avail
    assert (length + solver.BLOCK) * per_token > avail * 0.98
    assert found.margin_bytes is not None
    assert found.margin_bytes >= 0


@given(st.floats(10, 200), st.floats(0.3, 0.94), st.floats(0.01, 60))
@settings(max_examples=300, deadline=None)
def test_the_proposed_share_is_enough_and_allowed(total: float, util: float, missing: float) -> None:
    """A raised share gives what is missing and never passes 0.95."""
    found = solver.more_util(solver.Budget(total, util), missing)
    if found is not None:
        assert (float(found.suggested) - util) * total >= missing - 1e-6
        assert float(found.suggested) <= solver.MOST_UTIL


@given(st.floats(10, 200), st.floats(0.3, 0.95), st.floats(0.01, 30))
@settings(max_examples=300, deadline=None)
def test_the_lowered_share_frees_enough(total: float, share: float, missing: float) -> None:
    """A lowered share frees what is missing and never goes below the weights."""
    found = solver.less_share("--x", share, missing, total, least=0.4)
    if found is not None:
        assert (share - float(found.suggested)) * total >= missing - 1e-6
        assert float(found.suggested) > 0.4


def test_infeasible_is_said() -> None:
    """No room, no proposal."""
    assert solver.shorter(10, 0.01, 4096) is None
    assert solver.more_util(solver.Budget(80, 0.95), 5) is None
    assert solver.less_share("--x", 0.5, 30, 40, least=0.45) is None


@pytest.mark.parametrize(
    ("model", "weights_gib", "kv_kib"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 14.96, 128),
        ("meta-llama/Llama-3.1-70B-Instruct", 131.4, 320),
        ("Qwen/Qwen2.5-7B-Instruct", 14.19, 56),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 29.26, 30.375),
    ],
)
def test_known_models(model: str, weights_gib: float, kv_kib: float) -> None:
    """Sizes of well-known models from their shapes."""
    shape = shapes.known(model)
    assert shape is not None
    memory = shapes.memory(shape)
    assert memory is not None
    assert memory.weights / GIB == pytest.approx(weights_gib, rel=0.02)
    assert memory.kv_per_token / 1024 == pytest.approx(kv_kib, rel=0.001)


def test_deepseek_v3_cache_is_not_divided() -> None:
    """MLA: 68.6 KiB a token, whatever the tensor parallel size; about 671 billion parameters at one byte."""
    memory = shapes.memory(shapes.known("deepseek-ai/DeepSeek-V3") or {})
    assert memory is not None
    assert memory.is_mla
    assert memory.kv_per_token / 1024 == pytest.approx(68.6, rel=0.001)
    assert memory.weights == pytest.approx(671e9, rel=0.02)


@pytest.mark.parametrize("model", ["Llama-3.1-8B-AWQ", "Qwen2.5-7B-Instruct-GPTQ-Int4", "my-model", "Llama-3.1-80B"])
def test_unknown_models_are_not_guessed(model: str) -> None:
    """A quantised or unknown name gives no size."""
    assert shapes.known(model) is None


def test_hybrid_models_are_refused() -> None:
    """A model whose cache is not this sum gives no number."""
    shape = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 2, "mamba_d_state": 16}
    assert shapes.memory(shape) is None


def test_options_of_all_kinds_are_one_vocabulary() -> None:
    """Flags, printed arguments and files name the same things."""
    wanted = {"tp": "8", "max_len": "8192", "util": "0.9"}
    line = from_command("vllm serve m --tensor-parallel-size 8 --max-model-len=8192 --gpu-memory-utilization 0.9")
    printed = from_repr(
        "non-default args: {'tensor_parallel_size': 8, 'max_model_len': 8192, 'gpu_memory_utilization': 0.9}"
    )
    table = canonical({"tensor-parallel-size": 8, "max_model_len": 8192, "gpu_memory_utilization": 0.9})
    for found in (line, printed, table):
        assert {k: found[k] for k in wanted} == wanted
        assert found["engine"] == "vllm"
    assert from_command("python -m sglang.launch_server --tp 8 --mem-fraction-static 0.8")["engine"] == "sglang"
