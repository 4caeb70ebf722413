"""The error tree, the exit codes and their documentation are one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsctl.base import errors, exits
from dsctl.base.exits import Exit

ROOT = Path(__file__).resolve().parents[3]
CLASSES = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.DsctlError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda e: e.__name__)
def test_every_error_is_drawn_with_its_exit_code(error: type[errors.DsctlError]) -> None:
    """The tree in the docstring names every class with the code it ends with."""
    line = next(line for line in (errors.__doc__ or "").splitlines() if re.search(rf"\b{error.__name__}\b", line))
    assert str(error.exit_code.value) in line


@pytest.mark.parametrize("error", CLASSES, ids=lambda e: e.__name__)
def test_every_exit_code_of_an_error_is_explained(error: type[errors.DsctlError]) -> None:
    """No error ends with a code that the table does not explain."""
    assert exits.MEANING[error.exit_code]


def test_the_document_is_the_table() -> None:
    """docs/EXIT-CODES.md holds exactly the table in the code."""
    text = (ROOT / "docs" / "EXIT-CODES.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, flags=re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == {code.value: exits.MEANING[code] for code in Exit}


def test_an_error_says_what_why_and_what_to_try() -> None:
    """The lines of an error are the message, the cause indented, and the next command."""
    error = errors.GateError("r1 did not start", why="line one\nline two", hint="dsctl logs r1")
    assert error.lines() == ["r1 did not start", "  line one", "  line two", "  try: dsctl logs r1"]
