"""Two axes at once: four real processes compute what one computes."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.core.ranks import Ranks
from engine.modeling.loader import load
from engine.spec.config import EngineConfig
from tests.engine.checkpoints import make_checkpoint
from tests.engine.parallel.test_ranks import logits


def test_four_ranks_mixed(tmp_path: Path) -> None:
    """Two stages of two halves each, of heads or of experts, and halves of heads with halves of experts."""
    path = str(make_checkpoint(tmp_path / "model", "v3-yarn"))
    whole = load(EngineConfig(path, kernels="reference", dtype="float32"))
    expected = logits(whole, whole.spec.vocab_size)
    with Ranks(4, threads=1, on_lost=lambda: None) as ranks:
        for axes in (("tensor", "pipeline"), ("expert", "pipeline"), ("tensor", "expert")):
            settings = {f"{axis}_parallel_size": 2 for axis in axes}
            model = ranks.load(EngineConfig(path, kernels="reference", dtype="float32", **settings))  # type: ignore[arg-type]
            found = logits(model, whole.spec.vocab_size)
            assert (found - expected).abs().max() <= 1e-4 * float(expected.std()), axes
            if "tensor" not in axes:
                assert torch.equal(found, expected)
