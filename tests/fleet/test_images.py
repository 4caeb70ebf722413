"""Images between real hosts by a registry of one plan: only layers that a host lacks travel, and nothing stays."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsctl.base.fleetstep import BuildImage, FetchImage, FleetStep
from dsctl.base.voice import Silence
from dsctl.flows.fleet import observe, open_fleet
from dsctl.reach.hostdoor import HostDoor
from dsctl.reach.registry import Registry
from tests.fleet.bed.engine import docker
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place
from tests.fleet.operator import Operator

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]
MIB = 1 << 20


@pytest.fixture
def operator(bed: Bed, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """Somebody with two hosts, of which the first has an image and another one with one more layer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"i{random.randrange(1 << 30):x}"
    made = Operator(tmp_path / "op", bed, name, 8100, place)
    made.settings["placement"] = {"hosts": ",".join(host.name for host in bed.hosts[:2])}
    made.save()
    made.shell(
        0,
        "sh",
        "-c",
        f"""mkdir -p /tmp/{name} && cd /tmp/{name} && head -c {2 * MIB} /dev/urandom >old
        head -c {3 * MIB} /dev/urandom >new && tar c old | docker import - base-{name}:1
        printf 'FROM base-{name}:1\\nCOPY new /new\\n' >Dockerfile
        DOCKER_BUILDKIT=0 docker build -q -t {name}:1 .""",
    )
    yield made
    for number in range(2):
        made.shell(
            number, "sh", "-c", f"docker rmi -f {name}:1 base-{name}:1 >/dev/null 2>&1; rm -rf /tmp/{name}; true"
        )


@pytest.mark.skipif(not Registry.is_possible(), reason="docker-registry is not installed")
def test_only_missing_layers_travel(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that got the base gets only the layer above it, the same image id, and no name of ours stays."""
    image = f"{operator.settings['project']}:1"
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
    ids: list[tuple[str, str]] = []
    with door.held("deploy"):
        for name in (f"base-{image}", image):
            lines.clear()
            wanted = door.hosts[first].image_id(name)
            door.act(FleetStep(second, "bring it", FetchImage(name, wanted, first)), Silence())
            ids.append((wanted, door.hosts[second].image_id(name)))
    assert all(wanted == found != "" for wanted, found in ids)
    assert (lines.count("Pull complete"), lines.count("Already exists")) == (1, 1)
    for number in range(2):
        names = operator.shell(number, "docker", "images", "--digests", "--format", "{{.Repository}}")
        assert "127.0.0.1" not in names
    for each in fleet.doors.values():
        each.host.close()  # type: ignore[attr-defined]


@pytest.mark.long
def test_an_image_is_built_without_a_way_out(operator: Operator, place: Place, tmp_path: Path) -> None:
    """From a base the host has and a wheelhouse, the front image is built where no index can be reached; it runs."""
    host = operator.bed.hosts[0]
    docker(place, "save", "-o", str(tmp_path / "base.tar"), "bed-base")
    with (tmp_path / "base.tar").open("rb") as archive:
        docker(place, "exec", "-i", host.container, "docker", "load", "-q", stdin=archive)
    operator.save(image={"name": "", "wheelhouse": str(place.wheels), "cpu_base": "bed-base:latest"})
    image = f"dsctl-front:{operator.settings['project']}"
    fleet = open_fleet(operator.directory / "dsctl.yaml")
    door = fleet.door(observe(fleet))
    try:
        with door.held("deploy"):
            built = BuildImage(image, "front", "bed-base:latest")
            door.act(FleetStep(fleet.hosts[0], "build it", built), Silence())
        run = ["docker", "run", "--rm", "--network", "none", "--read-only", image]
        assert "--state-dir" in operator.shell(0, *run, "python", "-m", "dsctl.gateway", "--help")
        assert operator.shell(0, *run, "id", "-u").strip() == "10001"
        operator.shell(0, *run, "sh", "-c", "command -v nginx")
    finally:
        operator.shell(0, "sh", "-c", f"docker rmi -f {image} bed-base:latest >/dev/null 2>&1; true")
        for each in fleet.doors.values():
            each.host.close()  # type: ignore[attr-defined]
