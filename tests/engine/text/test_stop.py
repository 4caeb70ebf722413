"""Stop strings end the text at the right character, whatever the pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.stop import StopStrings


def _run(pieces: list[str], stops: tuple[str, ...], *, include: bool = False) -> tuple[str, str | None]:
    finder = StopStrings(stops, include=include)
    shown = "".join(finder.feed(piece) for piece in pieces)
    return (shown if finder.matched else shown + finder.finish()), finder.matched


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab", max_size=20),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
    include=st.booleans(),
)
def test_cuts_do_not_matter(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    """Feeding characters one by one, whole, or cut anywhere shows the same text and finds the same string."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    single = _run(list(text), tuple(stops), include=include)
    assert _run(pieces, tuple(stops), include=include) == single
    assert _run([text], tuple(stops), include=include) == single


@pytest.mark.parametrize(("include", "shown"), [(False, "one "), (True, "one END")])
def test_a_match_over_pieces(include: bool, shown: str) -> None:
    """A stop string spread over three pieces is found; it is shown only when asked for."""
    assert _run(["one E", "N", "D two"], ("END",), include=include) == (shown, "END")


def test_a_false_alarm_is_released() -> None:
    """What looked like the beginning of a stop string appears as soon as it is not one."""
    finder = StopStrings(("END",))
    assert [finder.feed("x EN"), finder.feed("T")] == ["x ", "ENT"]


def test_skipped_text_cannot_match() -> None:
    """Text within min_tokens neither matches nor begins a match."""
    finder = StopStrings(("ab",))
    assert finder.skip("aba") == "aba"
    assert finder.feed("b") == "b"
    assert finder.matched is None
