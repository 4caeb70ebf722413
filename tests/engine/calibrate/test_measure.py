"""Comparing two models on given tokens: the right rows, the right arithmetic, and figures that follow by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engine.calibrate.measure import Comparison, Judged, Sample, batches, compare, logits_of
from engine.modeling import loader
from engine.spec.config import EngineConfig
from tests.engine.arrangements import alone
from tests.engine.checkpoints import make_checkpoint

IDS = tuple(int(i) for i in torch.randint(250, (50,), generator=torch.Generator().manual_seed(3)))


def test_rows_are_those_a_server_computes(tmp_path: Path) -> None:
    """Prompt and generated rows of several samples in one step: the bits of each sample alone."""
    model = loader.load(EngineConfig(str(make_checkpoint(tmp_path)), dtype="float32"))
    samples = [Sample(IDS), Sample(IDS[:20], 8, generated=True), Sample(IDS[5:9], 3, generated=True)]
    found = logits_of(model, samples)
    assert found.shape[0] == 49 + 12 + 1
    assert torch.equal(found[:49], alone(model, torch.tensor(IDS[:49]), 49))
    assert torch.equal(found[49:61], alone(model, torch.tensor(IDS[:19]), 8)[7:])
    assert torch.equal(found[61:], alone(model, torch.tensor(IDS[5:8]), 3)[2:])


def test_samples_are_grouped_by_room() -> None:
    """Every sample once, in order; a step stays below its rows and its logits' bytes."""
    samples = [Sample(IDS[:n]) for n in (50, 3, 20, 50, 7) * 20]
    for vocab, most in ((250, 1024), (1 << 20, 64)):
        groups = list(batches(samples, vocab))
        assert [s for group in groups for s in group] == samples
        assert max(sum(len(s.ids) for s in group) for group in groups) <= most


def test_the_figures_are_those_of_the_definition() -> None:
    """KL, perplexity ratio, agreement and exact answers against torch's own functions on random logits."""
    generator = torch.Generator().manual_seed(1)
    base, changed = (torch.randn(49, 250, generator=generator) for _ in range(2))
    changed = base + 0.3 * changed
    samples = [Sample(IDS[:30]), Sample(IDS[:20], 1), Sample((9, 0, 0), 2, generated=True)]
    targets = torch.cat([s.targets for s in samples])
    base[48, 0] = 99.0  # the answer is right before the change and wrong after it
    changed[48, 1] = 99.0
    comparison = Comparison()
    comparison.add(Judged.of(base, samples), Judged.of(changed, samples), samples)
    found = comparison.result()
    p, q = base.double().log_softmax(-1), changed.double().log_softmax(-1)
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    assert found.tokens == 49
    assert found.kl == pytest.approx(float(kl.mean()))
    assert found.kl_error == pytest.approx(float(kl.std()) / 7)
    assert found.kl_99 == pytest.approx(float(kl.quantile(0.99)))
    assert found.loss == pytest.approx(float(F.cross_entropy(base.double(), targets)))
    assert math.log(found.ratio) == pytest.approx(float(F.nll_loss(p, targets) - F.nll_loss(q, targets)))
    same = base.argmax(-1) == changed.argmax(-1)
    assert found.top1 == pytest.approx(float(same.double().mean()))
    two = p.topk(2).values
    assert found.top1_clear == pytest.approx(float(same[two[:, 0] - two[:, 1] > 0.1].double().mean()))
    assert (found.answers, found.exact_base, found.exact_changed, found.exact_ratio) == (1, 1, 0, 0.0)


def test_a_model_is_itself_and_rounding_shows(tmp_path: Path) -> None:
    """Against itself nothing differs; fewer bits differ more."""
    path = str(make_checkpoint(tmp_path, "v3", moe_intermediate_size=64))
    base, *changed = (loader.load(EngineConfig(path, quantization=name)) for name in ("none", "none", "int8", "int4"))
    found = compare(base, dict(zip(("same", "int8", "int4"), changed, strict=True)), [Sample(IDS)])
    assert (found["same"].kl, found["same"].ratio, found["same"].top1) == (0.0, 1.0, 1.0)
    assert 0 < found["int8"].kl < found["int4"].kl
