"""How many cards the solver asks for, against sums written down here independently of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dsctl.doctor import shapes, solver

GIB = float(1 << 30)
CARDS = {"A100-40": 39.4, "A100-80": 79.2, "H100": 79.1, "H200": 139.8}
# published totals: 671 B parameters in one byte, 15.7 B in two bytes; the MLA cache holds 576 values a layer
MODELS = {"DeepSeek-R1": (671.0e9, 61 * 576 * 2), "DeepSeek-V2-Lite": (2 * 15.7e9, 27 * 576 * 2)}
SIZES = {"DeepSeek-R1": (18432, 2048, 128), "DeepSeek-V2-Lite": (10944, 1408, 1)}
HEADS = {"DeepSeek-R1": 128, "DeepSeek-V2-Lite": 16}


def _need(model: str, cards: int, pipeline: int, tokens: int) -> float:
    """GiB on one card: its part of the weights, and the whole cache of its layers (MLA has one head to split)."""
    weights, per_token = MODELS[model]
    return (weights / cards + per_token * tokens / pipeline) / GIB


def _asked(model: str, card: str, tokens: int) -> tuple[int, int] | None:
    memory = shapes.memory(shapes.known(model) or {})
    option = solver.wider({"tp": "1"}, memory, CARDS[card], 0.9, tokens)
    if option is None:
        return None
    words = option.suggested.split()
    if option.param.startswith("--pipeline"):
        return 1, int(words[0])
    return int(words[0]), int(words[2]) if len(words) > 1 else 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("tokens", [4096, 32768, 163840])
def test_what_is_asked_for_fits(model: str, card: str, tokens: int) -> None:
    """Weights and one sequence fit in 0.9 of every card asked for; heads and blocks stay whole."""
    asked = _asked(model, card, tokens)
    assert asked is not None
    tensor, pipeline = asked
    assert _need(model, tensor * pipeline, pipeline, tokens) < CARDS[card] * 0.9
    wide, narrow, block = SIZES[model]
    assert HEADS[model] % tensor == 0 and wide % (tensor * block) == 0 and narrow % (tensor * block) == 0


@pytest.mark.parametrize("card", CARDS)
def test_half_as_many_would_not_do(card: str) -> None:
    """R1 needs 8 cards of an H200, 16 of 80 GB, 32 of 40 GB; half of them would not hold it."""
    asked = _asked("DeepSeek-R1", card, 4096)
    assert asked is not None
    cards = asked[0] * asked[1]
    assert cards == {"A100-40": 32, "A100-80": 16, "H100": 16, "H200": 8}[card]
    assert _need("DeepSeek-R1", cards // 2, 1, 4096) + 2.0 > CARDS[card] * 0.9


def test_longer_texts_never_need_fewer_cards() -> None:
    """The number of cards grows with the length that is asked for."""
    counts = [a[0] * a[1] for n in (4096, 65536, 1 << 20) if (a := _asked("DeepSeek-V2-Lite", "A100-40", n))]
    assert all(one <= other for one, other in pairwise(counts))
