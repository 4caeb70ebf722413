"""Images between real hosts by a registry of one plan: only layers that a host lacks travel, and nothing stays."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsctl.base.fleetstep import FetchImage, FleetStep
from dsctl.base.voice import Silence
from dsctl.flows.fleet import observe, open_fleet
from dsctl.reach.hostdoor import HostDoor
from dsctl.reach.registry import Registry
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place
from tests.fleet.operator import Operator
from tests.fleet.test_deploy import loaded  # noqa: F401 - the hosts with the product's image

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]
MIB = 1 << 20


@pytest.fixture
def operator(loaded: Bed, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:  # noqa: F811
    """Somebody with two hosts, of which the first has an image of one more layer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Operator(tmp_path / "op", loaded, f"i{random.randrange(1 << 30):x}", 8100, place)
    made.settings["placement"] = {"hosts": ",".join(host.name for host in loaded.hosts[:2])}
    made.save()
    build = f"""mkdir -p /tmp/ctx && head -c {3 * MIB} /dev/urandom >/tmp/ctx/new && cd /tmp/ctx
        printf 'FROM {loaded.image}\\nCOPY new /new\\n' >Dockerfile && DOCKER_BUILDKIT=0 docker build -q -t extra:1 . """
    made.shell(0, "sh", "-c", build)
    yield made
    for number in range(2):
        made.shell(number, "sh", "-c", "docker rmi -f extra:1 >/dev/null 2>&1; rm -rf /tmp/ctx; true")


@pytest.mark.skipif(not Registry.is_possible(), reason="docker-registry is not installed")
def test_only_missing_layers_travel(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second host has the base: it gets the one new layer, the same image id, and no name of ours stays."""
    fleet = open_fleet(operator.directory / "dsctl.yaml")
    first, second = fleet.hosts
    seen = observe(fleet)
    door = fleet.door(seen)
    lines: list[str] = []
    plain = type(door.hosts[second]).pull_from

    def pull(self: HostDoor, image: str, port: int, digest: str, told: object) -> None:
        def heard(line: dict[str, str]) -> None:
            lines.append(str(line.get("status")))
            told(line)  # type: ignore[operator]

        plain(self, image, port, digest, heard)  # type: ignore[arg-type]

    monkeypatch.setattr(type(door.hosts[second]), "pull_from", pull)
    with door.held("deploy"):
        wanted = door.hosts[first].image_id("extra:1")
        door.act(FleetStep(second, "bring it", FetchImage("extra:1", wanted, first)), Silence())
    assert door.hosts[second].image_id("extra:1") == wanted != ""
    assert lines.count("Pull complete") == 1
    assert lines.count("Already exists") >= 1
    for number in range(2):
        names = operator.shell(number, "docker", "images", "--digests", "--format", "{{.Repository}}")
        assert "127.0.0.1" not in names
    for each in fleet.doors.values():
        each.host.close()  # type: ignore[attr-defined]
