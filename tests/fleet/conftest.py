"""The bed for tests marked `fleet`: started when it is down, kept when it was up; skipped without root, not in CI."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fleet.bed import hosts
from tests.fleet.bed.__main__ import build_and_start
from tests.fleet.bed.engine import LackError, docker
from tests.fleet.bed.hosts import Bed, BedHost
from tests.fleet.bed.places import Place, place_of
from tests.fleet.operator import Operator


@pytest.fixture(scope="session")
def place() -> Place:
    """Where this checkout's bed lies, or the one that $DSCTL_BED names."""
    return place_of()


@pytest.fixture(scope="session")
def bed(place: Place) -> Iterator[Bed]:
    """The running bed; one that was down before the tests is down after them.

    A machine that can have none skips these tests with the reason, unless it is a CI's: there that is a failure.
    """
    was_up = hosts.read(place) is not None
    try:
        built = build_and_start(place)
    except LackError as error:
        if os.environ.get("CI"):
            pytest.fail(f"these tests may not be skipped in CI: {error}", pytrace=False)
        pytest.skip(str(error))
    yield built
    if not was_up:
        hosts.down(place)


@pytest.fixture(scope="session")
def loaded(bed: Bed, place: Place) -> Bed:
    """The bed with the product's image on its hosts, as if they had pulled it."""

    def load(host: BedHost) -> None:
        if not docker(place, "exec", host.container, "docker", "images", "-q", bed.image).strip():
            with Path(bed.archive).open("rb") as archive:
                docker(place, "exec", "-i", host.container, "docker", "load", "-q", stdin=archive)

    with ThreadPoolExecutor(len(bed.hosts)) as pool:
        list(pool.map(load, bed.hosts))
    return bed


@pytest.fixture
def project() -> str:
    """A name nobody else has."""
    return f"t{random.randrange(1 << 30):x}"


@pytest.fixture
def operator(loaded: Bed, place: Place, tmp_path: Path, project: str) -> Iterator[Operator]:
    """Somebody with a project of their own on the first three hosts; all of it is gone after the test."""
    made = Operator(tmp_path / "op", loaded, project, random.randrange(8100, 9900), place)
    yield made
    made.end()
