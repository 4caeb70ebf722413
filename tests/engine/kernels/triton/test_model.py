"""The model on the GPU's kernels against the reference definition, on every variant and number format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.modeling import device, loader
from engine.spec.config import EngineConfig
from tests.engine.arrangements import Span, Tokens, alone, step
from tests.engine.checkpoints import make_checkpoint
from tests.engine.kernels.triton import DEVICE

_SLOW = ("v2-greedy", "v2-greedy-qlora", "v2-yarn", "v3", "v3-fp8", "v3-tied")
_VARIANTS = ("v2-group", "v3-yarn", *(pytest.param(name, marks=pytest.mark.long) for name in _SLOW))
_BOUND = 1e-4  # of σ, as for tensor parallelism: only the order of sums differs


def _both(path: Path, quantization: str = "none") -> tuple[loader.Loaded, device.DeviceModel]:
    config = EngineConfig(model=str(path), dtype="float32", kernels="reference", quantization=quantization)
    return loader.load(config), device.load(config, torch.device(DEVICE))


def _ids(model: loader.Loaded, count: int) -> Tensor:
    return torch.randint(model.spec.vocab_size, (count,), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("variant", _VARIANTS)
def test_logits_are_the_references(tmp_path: Path, variant: str) -> None:
    """A prompt in two chunks, then generated tokens: every position within 1e-4 σ in float32."""
    slow, fast = _both(make_checkpoint(tmp_path, variant))
    ids = _ids(slow, 11)
    expected, found = alone(slow, ids, 9, chunk=5), alone(fast, ids, 9, chunk=5).cpu()
    assert (found - expected).abs().max() < _BOUND * expected.std()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_logits_are_the_references(tmp_path: Path, quantization: str) -> None:
    """The reference computes with the very values that the formats hold."""
    slow, fast = _both(make_checkpoint(tmp_path, "v3"), quantization)
    ids = _ids(slow, 8)
    expected, found = alone(slow, ids, 7), alone(fast, ids, 7).cpu()
    assert (found - expected).abs().max() < _BOUND * expected.std()


def test_sequences_of_both_roles_share_a_step(tmp_path: Path) -> None:
    """Prompt chunks and generated rows of several sequences at once: each as if it were alone."""
    _, fast = _both(make_checkpoint(tmp_path, "v3"))
    ids = _ids(fast, 30)
    cache = fast.new_cache(12, 16)
    one = Tokens(ids[:12], 9, torch.tensor([7, 2]))
    other = Tokens(ids[12:], 16, torch.tensor([3, 11]))
    step(fast, cache, [Span(one, 0, 9), Span(other, 0, 6)])
    mixed = step(fast, cache, [Span(one, 9, 12), Span(other, 6, 17)])
    expected = [alone(fast, one.ids, 9), alone(fast, other.ids, 16)]
    torch.testing.assert_close(mixed[0], expected[0][9:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixed[1], expected[1][6:17], atol=1e-4, rtol=1e-4)
