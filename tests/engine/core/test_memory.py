"""What a core occupies is what its plan said, to a tenth: while it packs weights, with packed ones, and under load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.wire.messages import Sampling, Submit
from tests.engine.checkpoints import make_checkpoint
from tests.engine.compiled import library
from tests.engine.core.conftest import Core

SHAPE: dict[str, Any] = {  # 100 M parameters: weights are a good part of what the core occupies
    "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1536, "moe_intermediate_size": 512,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8, "n_routed_experts": 20,
    "kv_lora_rank": 256, "q_lora_rank": 256, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
    "max_position_embeddings": 4096, "n_group": 4, "topk_group": 2,
}  # fmt: skip


def peak_rss(pid: int) -> int:
    """Most bytes the process has occupied so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16."""
    return make_checkpoint(tmp_path_factory.mktemp("large") / "v3", "v3", dtype=torch.bfloat16, **SHAPE)


@pytest.mark.parametrize(
    "quantization", ["int8", pytest.param("int4", marks=pytest.mark.long), pytest.param("none", marks=pytest.mark.long)]
)
def test_a_core_occupies_what_it_planned(
    quantization: str,
    spawn: Callable[[], Core],
    large: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first start, which packs, and from the second, which maps: peak RSS is at most 1.1 times the plan after
    full steps with a full cache."""
    library(request.config, None)  # skips without a compiler
    (tmp_path / "dsctl").mkdir()
    (tmp_path / "dsctl" / "kernels").symlink_to(Path(request.config.cache.mkdir("kernels")) / "dsctl" / "kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for start in ("packs", "maps"):
        core = spawn()
        core.start(large, dtype="bfloat16", quantization=quantization, kv_cache_tokens=4096, max_model_len=2048)
        plan = core.ready().plan
        for seq in range(1, 9):
            prompt = [(seq * 37 + i) % 7000 for i in range(450)]
            core.channel.send(Submit(seq, prompt, Sampling(seed=1, max_tokens=4)))
        core.follow(*range(1, 9))
        assert peak_rss(core.process.pid) <= 1.1 * sum(plan.values()), f"{start}: {plan}"
        core.close()
    assert bool(list((tmp_path / "dsctl").rglob("*.pack"))) == (quantization != "none")
