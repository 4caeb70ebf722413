"""The bundled model keeps its quality in the formats it is served in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.modeling import loader
from engine.spec.model import read_spec
from engine.spec.policy import resolve
from tests.engine.compiled import library
from training.gates import BUNDLED, EIGHT, ENOUGH, Gate, gate_of, measure, table

FEW = Gate(ratio=0.995, exact=1.0, kl=1e-3, top1=0.97, top1_clear=0.995)  # few tokens, mostly of text: wider bounds


@pytest.fixture(autouse=True)
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels built once and kept."""
    chosen = library(request.config, None)
    monkeypatch.setattr(loader, "load_library", lambda: chosen)


def test_the_bundled_policy_on_some_of_the_held_out() -> None:
    """Some texts and answers: near the 16-bit model, and the same answers word for word."""
    found = measure(BUNDLED, ["auto"], "cpu", limit=6)["auto"]
    assert found.exact_base > 15
    assert FEW.missed(found) == []
    assert found.kl > 0, "quantising changed nothing: the policy is not applied"


def test_it_is_served_quantised_unless_told_otherwise() -> None:
    """The checkpoint's own policy has experts in eight bits, and `auto` is the default."""
    policy = resolve("auto", BUNDLED, read_spec(BUNDLED))
    assert policy.routed == policy.shared == "int8"
    assert (gate_of("auto", BUNDLED), gate_of("int4", BUNDLED).kl) == (EIGHT, 2e-2)


def test_a_missed_gate_is_named() -> None:
    """Each bound by itself, with the figure."""
    found = measure(BUNDLED, ["none"], "cpu", limit=1)["none"]
    assert EIGHT.missed(found) == []
    for change, word in (
        ({"ratio": 0.99}, "NLL"), ({"exact_changed": 0}, "exact-match"), ({"kl": 0.5}, "mean KL is 5.00e-01"),
        ({"top1": 0.9}, "top-1 agreement is 0.90000"), ({"top1_clear": 0.99}, "clear"),
    ):  # fmt: skip
        (missed,) = EIGHT.missed(replace(found, **change))
        assert word in missed
    assert "none" in table({"none": found})


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_gates_on_all_that_is_held_out() -> None:
    """More than 50 000 tokens: the bundled policy keeps the eight-bit gates, four-bit experts theirs."""
    for name, found in measure(BUNDLED, ["auto", "int4"], "cpu").items():
        assert found.tokens >= ENOUGH
        assert gate_of(name, BUNDLED).missed(found) == []
