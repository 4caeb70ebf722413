"""Deployments that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.product.deployment import Deployment

Make = Callable[[str], Deployment]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes deployments of the stand-in engine, each with a home below `tmp_path`; all are ended."""
    made: list[Deployment] = []

    def new(name: str) -> Deployment:
        deployment = Deployment(tmp_path / f"in {name[:20]}", tmp_path / name)
        deployment.configure("engine: oracle\n")
        made.append(deployment)
        return deployment

    yield new
    for deployment in made:
        deployment.end()


@pytest.fixture
def deployment(make: Make) -> Deployment:
    """One deployment, not deployed yet."""
    return make("home")
