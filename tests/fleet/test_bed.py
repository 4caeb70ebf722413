"""The bed is what the other tests take it for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fleet.bed.hosts import Bed, BedHost

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]


def _ssh(bed: Bed, host: BedHost, user: str, command: str) -> subprocess.CompletedProcess[str]:
    options = ["-i", bed.key, "-o", f"UserKnownHostsFile={bed.known_hosts}", "-o", "BatchMode=yes"]
    argv = ["ssh", *options, f"{user}@{host.address}", command]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("user", "docker", "sudo"),
    [
        ("root", True, True),
        ("dock", True, False),
        ("op", False, True),
        ("pw", False, False),
        ("nobodyelse", False, False),
    ],
)
def test_every_kind_of_login(bed: Bed, user: str, docker: bool, sudo: bool) -> None:
    """Each user can log in, and reaches Docker and sudo as its name promises."""
    host = bed.hosts[0]
    assert _ssh(bed, host, user, "id -un").stdout.strip() == user
    assert (_ssh(bed, host, user, "docker ps -q").returncode == 0) == docker
    assert (_ssh(bed, host, user, "sudo -n true").returncode == 0) == sudo


def test_hosts_are_apart_and_closed_in(bed: Bed) -> None:
    """Hosts have names, addresses and Docker Engines of their own, see each other, and have no way out."""
    first, second = bed.hosts[:2]
    assert _ssh(bed, first, "root", "hostname").stdout.strip() == first.name
    ids = {_ssh(bed, host, "root", "docker info --format '{{.ID}}'").stdout.strip() for host in (first, second)}
    assert len(ids) == 2
    assert _ssh(bed, first, "root", f"timeout 20 bash -c '</dev/tcp/{second.address}/22'").returncode == 0
    assert _ssh(bed, first, "root", "ip route show default").stdout.strip() == ""


def test_a_container_runs_on_a_host(bed: Bed) -> None:
    """A host's own Engine loads the product's image from the archive and runs it under a memory limit."""
    host = bed.hosts[0]
    with Path(bed.archive).open("rb") as archive:
        options = ["-i", bed.key, "-o", f"UserKnownHostsFile={bed.known_hosts}", "-o", "BatchMode=yes"]
        argv = ["ssh", *options, f"root@{host.address}", "docker load -q"]
        subprocess.run(argv, stdin=archive, check=True, timeout=300, capture_output=True)
    command = (
        f"docker run --rm --memory 200m --network host {bed.image} python -c 'import dsctl; print(dsctl.__version__)'"
    )
    done = _ssh(bed, host, "root", command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
