"""Asking a server: its address as people write it."""

from __future__ import annotations

import pytest

from dsctl.flows.chat import address


@pytest.mark.parametrize("url", ["h:1", "http://h:1", "http://h:1/", "h:1/v1", "http://h:1/v1/"])
def test_an_address_is_taken_as_people_write_it(url: str) -> None:
    """The scheme and what is behind the port may be there or not."""
    assert address(url) == "http://h:1"


def test_another_scheme_is_kept() -> None:
    """https stays https."""
    assert address("https://models.example/v1") == "https://models.example"
