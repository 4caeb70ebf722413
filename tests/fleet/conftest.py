"""The bed for tests marked `fleet`: started when it is down, kept when it was up; skipped without root, not in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fleet.bed import hosts
from tests.fleet.bed.__main__ import build_and_start
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place, place_of


@pytest.fixture(scope="session")
def place() -> Place:
    """Where this checkout's bed lies, or the one that $DSCTL_BED names."""
    return place_of()


@pytest.fixture(scope="session")
def bed(place: Place) -> Iterator[Bed]:
    """The running bed; one that was down before the tests is down after them."""
    if os.getuid() != 0 and not os.environ.get("CI"):
        pytest.skip("the test bed starts a Docker Engine, which needs root")
    was_up = hosts.read(place) is not None
    yield build_and_start(place)
    if not was_up:
        hosts.down(place)
