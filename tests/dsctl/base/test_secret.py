"""A secret never shows, however it is printed, logged or serialised."""

from __future__ import annotations

import copy
import json
import logging
import pickle  # noqa: TID251 - the test proves that it is refused

import pytest

from dsctl.base.secret import Secret, redact

VALUE = "s3cr3t-sentinel"


def test_every_way_of_showing_hides(caplog: pytest.LogCaptureFixture) -> None:
    """repr, str, f-strings with and without a width, % and logging show the placeholder."""
    secret = Secret(VALUE)
    logging.getLogger("test").warning("token %s", secret)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", repr([secret]), caplog.text]
    assert not [text for text in shown if VALUE in text]


@pytest.mark.parametrize("dump", [json.dumps, pickle.dumps, copy.deepcopy], ids=["json", "pickle", "deepcopy"])
def test_serialising_is_an_error(dump: object) -> None:
    """A secret cannot reach a file by accident."""
    assert callable(dump)
    with pytest.raises(TypeError):
        dump(Secret(VALUE))


def test_redact_removes_it_from_text() -> None:
    """Text that may hold a secret is cleaned before it is shown; an empty secret hides nothing."""
    assert redact(f"a {VALUE} b", Secret(VALUE), Secret("")) == "a ‹secret› b"


def test_equality_is_by_value() -> None:
    """Two holders of one value are equal, and a holder is never equal to the bare value."""
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != VALUE
