"""Reasoning and answer are told apart, also when a tag is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.reasoning import ReasoningParser, starts_in_reasoning


def _run(pieces: list[str], *, inside: bool) -> tuple[str, str]:
    parser = ReasoningParser(inside=inside)
    parts = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    return "".join(part.reasoning for part in parts), "".join(part.answer for part in parts)


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "answer"),
    [
        ("why</think>so", True, "why", "so"),
        ("<think>why</think>so", False, "why", "so"),
        ("\n<think>why", False, "why", ""),
        ("so", False, "", "so"),
        ("so <think>no</think>", False, "", "so <think>no</think>"),
        ("never ends </thi", True, "never ends </thi", ""),
        ("<thi", False, "", "<thi"),
        ("a</think>b</think>c", True, "a", "b</think>c"),
    ],
)
def test_every_cut_gives_the_same_split(text: str, inside: bool, reasoning: str, answer: str) -> None:
    """Each case, cut at every place and fed character by character."""
    for cut in range(len(text) + 1):
        assert _run([text[:cut], text[cut:]], inside=inside) == (reasoning, answer)
    assert _run(list(text), inside=inside) == (reasoning, answer)


@settings(max_examples=200, deadline=None)
@given(text=st.text("<>/think a", max_size=30), inside=st.booleans())
def test_pieces_do_not_matter(text: str, inside: bool) -> None:
    """Random near-tags: one piece or many, the same split."""
    assert _run(list(text), inside=inside) == _run([text], inside=inside)


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [("<|assistant|><think>\n", True), ("<|assistant|></think>", False), ("<|assistant|>", False)],
)
def test_where_an_answer_starts(prompt: str, inside: bool) -> None:
    """Inside the reasoning if and only if the generation prompt ends inside a think tag."""
    assert starts_in_reasoning(prompt) is inside
