"""The door to a real host: files, secrets, images and containers, for every kind of login."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsctl.base.container import ContainerSpec, Health, Mount
from dsctl.base.errors import DsctlError, LockHeldError, PreflightError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.config.inventory import Entry
from dsctl.facts.host import Docker, HostFacts
from dsctl.reach.hostdoor import FencedError, Ran
from dsctl.reach.ssh.command import LostError
from dsctl.reach.ssh.door import SshDoor
from dsctl.reach.ssh.route import Resolver
from dsctl.reach.ssh.ways import Ways
from tests.fleet.bed.hosts import Bed

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]
WAYS = {"root": "streamlocal", "dock": "streamlocal", "op": "sudo", "pw": "sudo"}


@pytest.fixture
def ways(bed: Bed) -> Iterator[Ways]:
    """Connections to the bed's hosts."""
    with Ways(Resolver(os.environ, Path(bed.known_hosts)), Secret(bed.password)) as opened:
        yield opened


def door(bed: Bed, ways: Ways, user: str, number: int = 0, project: str = "test") -> SshDoor:
    """A host of the bed as that user."""
    host = bed.hosts[number]
    password = ways.password if user == "pw" else None
    entry = Entry(f"{host.name}", address=host.address, user=user, identity=bed.key)
    opened = Ways(ways.resolver, password).host(entry)
    state = "/home/dock/state" if user == "dock" else "/var/lib/dsctl-test"
    return SshDoor(opened, project, state, {"actor": "tests", "since": 0})


@pytest.mark.parametrize("user", list(WAYS))
@pytest.mark.parametrize("number", [0, -1])
def test_every_login_sees_the_host(bed: Bed, ways: Ways, user: str, number: int) -> None:
    """Facts are complete for each kind of login, on a host with and on one without streamlocal."""
    host = door(bed, ways, user, number)
    found = host.facts()
    assert isinstance(found, HostFacts)
    assert isinstance(found.docker, Docker)
    streamlocal = bed.hosts[number].streamlocal
    assert found.docker.way == (WAYS[user] if streamlocal or WAYS[user] == "sudo" else "dial-stdio")
    assert (found.user, found.address) == (user, bed.hosts[number].address)
    gone = {f.name for f in dataclasses.fields(found) if isinstance(getattr(found, f.name), Missing)}
    assert gone <= {"driver", "sudo", "systemd"}
    assert abs(float(found.skew)) < 30  # type: ignore[arg-type]
    assert 22 in found.ports  # type: ignore[operator]
    host.host.close()


def spec(bed: Bed, name: str, user: str) -> ContainerSpec:
    """A container that sleeps, with one secret."""
    state = "/home/dock/state" if user == "dock" else "/var/lib/dsctl-test"
    owner = "1000:1000" if user == "dock" else "10001:10001"
    return ContainerSpec(
        name=name, image=bed.image, command=("sleep", "600"), labels={"dsctl.project": "test", "dsctl.role": "replica"},
        environment={"A": "b"}, mounts=(Mount(f"{state}/test/secrets/replica", "/run/secrets"),), user=owner,
        health=Health(("true",)), tmpfs=("/tmp:rw,exec,nosuid,nodev",), stop_s=1,
    )  # fmt: skip


@pytest.mark.parametrize("user", list(WAYS))
def test_the_life_of_a_container(bed: Bed, ways: Ways, user: str) -> None:
    """Image in, secret in, container up and looked into, stopped and gone; each step done twice is done once."""
    host = door(bed, ways, user)
    with pytest.raises(FencedError, match="without the lock"):
        host.write("x", "y")
    host.claim("deploy")
    try:
        if not host.image_id(bed.image):
            with Path(bed.archive).open("rb") as archive:
                host.load(iter(lambda: archive.read(1 << 20), b""))
        assert host.image_id(bed.image).startswith("sha256:")
        assert host.image_id("none:1") == ""
        host.write("secrets/replica/replica.token", "s3cret", 0o400)
        host.remove("loads.jsonl")
        host.append("loads.jsonl", "one")
        host.append("loads.jsonl", "two")
        assert host.read("loads.jsonl") == "one\ntwo\n"
        name = f"dsctl-test-{user}"
        for old in [each for each in host.containers() if each.name == name]:
            host.stop(old.id, 1)
            host.delete(old.id)
        made = host.create(spec(bed, name, user))
        host.start(made)
        host.start(made)
        there = next(each for each in host.containers() if each.id == made)
        assert (there.name, there.is_running, there.label("role")) == (name, True, "replica")
        shown = host.run_in(name, ["sh", "-c", "cat /run/secrets/replica.token; cat; touch /x"], b"-stdin")
        assert isinstance(shown, Ran)
        assert shown.text.startswith("s3cret-stdin")
        assert "Read-only file system" in shown.text
        assert "s3cret" not in host.host.run(["ps", "axww"]).text
        assert isinstance(host.run_in("nothing-here", ["true"]), Missing)
        host.stop(made, 1)
        host.stop(made, 1)
        host.delete(made)
        host.delete(made)
        host.remove("")
        assert isinstance(host.read("loads.jsonl"), Missing)
    finally:
        host.release()
        host.host.close()


def test_an_image_goes_from_host_to_host(bed: Bed, ways: Ways) -> None:
    """An image streams from one host to another and arrives with the same id."""
    source, target = door(bed, ways, "root"), door(bed, ways, "op", 1)
    source.claim("deploy")
    target.claim("deploy")
    try:
        if not source.image_id(bed.image):
            with Path(bed.archive).open("rb") as archive:
                source.load(iter(lambda: archive.read(1 << 20), b""))
        target.drop_image(bed.image)
        target.load(source.save(bed.image))
        assert target.image_id(bed.image) == source.image_id(bed.image)
        with pytest.raises(DsctlError, match="Docker cannot build"):
            target.build("bad:1", b"no tar at all")
    finally:
        source.release()
        target.release()


def test_two_projects_want_one_port(bed: Bed, ways: Ways) -> None:
    """Of two containers created for the same port, the later one is refused and leaves nothing behind."""
    first, second = door(bed, ways, "root", 0, "one"), door(bed, ways, "op", 0, "two")
    first.claim("deploy")
    second.claim("deploy")
    made = ""
    try:
        if not first.image_id(bed.image):
            with Path(bed.archive).open("rb") as archive:
                first.load(iter(lambda: archive.read(1 << 20), b""))
        wanted = spec(bed, "dsctl-one-r1", "root")
        labels = {**wanted.labels, "dsctl.port": "21999"}
        made = first.create(dataclasses.replace(wanted, labels=labels))
        with pytest.raises(PreflightError, match="went to dsctl-one-r1 meanwhile"):
            second.create(dataclasses.replace(wanted, name="dsctl-two-r1", labels=labels))
        assert [each.name for each in second.containers() if each.label("port") == "21999"] == ["dsctl-one-r1"]
    finally:
        if made:
            first.delete(made)
        first.remove("")
        first.release()
        second.remove("")
        second.release()


def test_two_operators(bed: Bed, ways: Ways) -> None:
    """The second operator is refused with the name of the first; who lost the lock can change nothing any more."""
    first, second = door(bed, ways, "op", 1, "shared"), door(bed, ways, "root", 1, "shared")
    first.claim("deploy")
    with pytest.raises(LockHeldError, match="`dsctl deploy` of tests"):
        second.claim("scale")
    first.host.link.transport().close()  # as a partition would
    end = time.monotonic() + 60
    while True:
        try:
            second.claim("scale")
            break
        except LockHeldError:
            assert time.monotonic() < end
            time.sleep(0.2)
    with pytest.raises((LostError, FencedError)):
        first.write("late", "x")
    with pytest.raises((LostError, FencedError)):
        first.start("nothing")
    assert isinstance(second.read("late"), Missing)
    second.release()
