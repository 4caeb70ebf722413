"""Bytes per rank agree with published sizes, and divisions add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.layouts import CARDS, MODELS, table
from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.sharding import Layout, feasible, rank_bytes, refusal, served_format

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "LAYOUTS.md"


def spec(name: str) -> ModelSpec:
    """A published model."""
    return spec_from_config(next(config for title, config in MODELS.items() if title.startswith(name)), name)


def test_published_sizes() -> None:
    """V2-Lite has 15.7 billion parameters in two bytes, V3 671 billion in about one (MTP left out)."""
    assert rank_bytes(spec("V2-Lite"), Layout(), "bf16").weights == pytest.approx(31.4e9, rel=0.01)
    assert rank_bytes(spec("V3"), Layout(), "fp8").weights == pytest.approx(671e9, rel=0.015)
    assert rank_bytes(spec("V2-Lite"), Layout(), "bf16").per_token == 27 * 576 * 2


@pytest.mark.parametrize("layout", [Layout(8), Layout(1, 8), Layout(1, 1, 8), Layout(2, 2, 2)])
def test_ranks_hold_at_least_their_share(layout: Layout) -> None:
    """No rank holds less than the whole divided by the ranks, and none the whole."""
    whole = rank_bytes(spec("V3"), Layout(), "fp8").weights
    found = rank_bytes(spec("V3"), layout, "fp8").weights
    assert whole / 8 <= found < whole / 5


def test_fp8_needs_cards_that_multiply_it() -> None:
    """An A100 holds an FP8 checkpoint as int8; a bfloat16 checkpoint stays as it is everywhere."""
    formats = {card.name: served_format(spec("V3"), card) for card in CARDS}
    assert formats["A100 80 GB"] == "int8"
    assert formats["H100 80 GB"] == formats["B200"] == "fp8"
    assert {served_format(spec("V2-Lite"), card) for card in CARDS} == {"bf16"}


def test_what_does_not_divide_says_why() -> None:
    """Heads, experts, layers and blocks of the inner size each have their sentence."""
    assert "heads" in refusal(spec("V2-Lite"), Layout(32), "bf16")
    assert "experts" in refusal(spec("V2-Lite"), Layout(1, 3), "bf16")
    assert "27 layers" in refusal(spec("V2-Lite"), Layout(1, 1, 28), "bf16")
    assert "no multiple of 128" in refusal(spec("V2-Lite"), Layout(2), "fp8")
    assert refusal(spec("V3"), Layout(8), "fp8") == ""


def test_more_tokens_first_and_none_that_does_not_fit() -> None:
    """Listed divisions leave the asked room; V3 fits on eight H200 and on no single card."""
    h200 = next(card for card in CARDS if card.name == "H200")
    assert feasible(spec("V3"), h200, "fp8", 1, 1) == []
    found = feasible(spec("V3"), h200, "fp8", 8, 32768)
    assert found
    assert [tokens for _, tokens in found] == sorted((tokens for _, tokens in found), reverse=True)
    assert all(layout.world == 8 for layout, _ in found)


def test_the_document_is_what_the_arithmetic_says() -> None:
    """docs/LAYOUTS.md is the output of `python -m benchmarks.layouts`."""
    assert DOCUMENT.read_text(encoding="utf-8").strip() == "\n".join(table()).strip()
