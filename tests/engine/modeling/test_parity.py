"""The model against transformers, on random weights of every variant, in both forms of attention."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from engine.layers.rotary import Rotary
from engine.spec.model import spec_from_config
from tests.engine.checkpoints import VARIANTS, make_config
from tests.engine.parity import Case, Mode

LENGTH = 160  # two and a half tiles of the cache; YaRN's original length is 64

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_oracle_is_recent_enough() -> None:
    """Older versions of transformers compute some variants wrongly."""
    major, minor = (int(part) for part in version("transformers").split(".")[:2])
    assert (major, minor) >= (5, 19)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_parity(tmp_path: Path, variant: str) -> None:
    """Every logit within 1e-4 σ, in the expanded and in the absorbed form."""
    case = Case(tmp_path, variant, LENGTH, rounded=False)
    for form in ("prompt", "generated"):
        parity = case.compare("float32", form)
        assert parity.holds, parity


@pytest.mark.parametrize("variant", ["v2-greedy", "v2-group", "v3-yarn", "v3-fp8"])
@pytest.mark.parametrize("mode", ["bfloat16", "narrow"])
def test_bfloat16_parity(tmp_path: Path, variant: str, mode: Mode) -> None:
    """Within 2e-2 σ of float32 arithmetic on the bfloat16-rounded weights on 99 % of clearly routed positions."""
    case = Case(tmp_path, variant, LENGTH, rounded=True)
    for form in ("prompt", "generated"):
        parity = case.compare(mode, form)
        assert parity.holds, parity


@pytest.mark.parametrize(("variant", "mscale"), [("v3", 1.0), ("v2-greedy", 0.707)])
def test_yarn_far_beyond_the_original_length(variant: str, mscale: float) -> None:
    """cos and sin at positions up to 20 000 equal transformers' for the published YaRN settings (original 4 096)."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }
    config = make_config(variant, rope_scaling=scaling, qk_rope_head_dim=64, max_position_embeddings=163840)
    theirs = AutoConfig.for_model(**config)
    frequencies, scale = ROPE_INIT_FUNCTIONS["yarn"](theirs)
    positions = torch.tensor([0, 1, 63, 4095, 4096, 4097, 20000])
    angles = positions[:, None].float() * frequencies
    cos, sin = Rotary(spec_from_config(config).rope, 64, 20001).at(positions)
    torch.testing.assert_close(cos[:, 0::2], angles.cos() * scale, rtol=0, atol=2e-3)
    torch.testing.assert_close(sin[:, 1::2], angles.sin() * scale, rtol=0, atol=2e-3)
    assert torch.equal(cos[:, 0::2], cos[:, 1::2])
    assert torch.equal(sin[:, 0::2], -sin[:, 1::2])
