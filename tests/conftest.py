"""Options of the whole test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-golden: golden files are written anew instead of compared."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")
