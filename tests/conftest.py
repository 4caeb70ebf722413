"""What holds for the whole suite: golden files can be written anew; generated examples are the same everywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "gate", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gate")  # a busy machine is no failure, and a failure is the same everywhere


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-golden: golden files are written anew instead of compared."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Commands install handlers of their own; none outlives its test, or a later Ctrl-C would fail some other test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
