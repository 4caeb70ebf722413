"""Provisioning real hosts: packages from a directory, no change the second time, nothing touched by a check."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.fleet.bed.engine import docker, run
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import ROOT, Place
from tests.fleet.operator import Operator

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(900)]
DUMMIES = {"chrony": "4.3-2", "nvidia-driver-570": "570.86.15-1", "nvidia-container-toolkit": "1.17.4-1"}
MODULE = (
    "python3-apt",
    "python-apt-common",
    "distro-info-data",
)  # what Debian's servers have and the bed's base has not
LINES = "apt_lines=['deb [trusted=yes] file:/srv/repo ./']"
GIVEN = ("--set", LINES, "--set", "toolkit_wanted=true", "--set", "kernel_modules=[ib_uverbs]")
NUMBER = 1  # the host whose login is no root but has sudo


def packages(directory: Path) -> None:
    """A repository in one directory: empty packages, those that Ansible's module needs, and their index."""
    directory.mkdir()
    for name, version in DUMMIES.items():
        tree = directory / f"tree-{name}"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        (tree / "DEBIAN" / "control").write_text(f"{control}Description: stands for {name}\n")
        run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(directory)])
    run(["apt-get", "download", "-q", *MODULE], cwd=directory)
    told: list[str] = []
    for deb in sorted(directory.glob("*.deb")):
        data = deb.read_bytes()
        fields = run(["dpkg-deb", "--field", str(deb)])
        told.append(f"{fields}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {sha256(data).hexdigest()}\n")
    (directory / "Packages").write_text("\n".join(told))


@pytest.fixture
def operator(bed: Bed, place: Place, tmp_path: Path) -> Iterator[Operator]:
    """Somebody with a host that has a directory of packages and no way to others; it is as before after the test."""
    made = Operator(tmp_path / "op", bed, f"v{random.randrange(1 << 30):x}", 8100, place)
    packages(tmp_path / "repo")
    with subprocess.Popen(["tar", "-cC", str(tmp_path / "repo"), "."], stdout=subprocess.PIPE) as tar:
        made.shell(NUMBER, "sh", "-c", "rm -rf /srv/repo; mkdir -p /srv/repo")
        container = bed.hosts[NUMBER].container
        docker(place, "exec", "-i", container, "tar", "-xC", "/srv/repo", stdin=tar.stdout)
    install = f"""mkdir -p /root/kept; mv /etc/apt/sources.list /etc/apt/sources.list.d/* /root/kept/ 2>/dev/null
        cp -a /etc/docker /root/kept/docker; cd /srv/repo; dpkg -i {" ".join(f"{name}_*.deb" for name in MODULE)}"""
    made.shell(NUMBER, "sh", "-c", install)
    yield made
    restore = f"""dpkg -P {" ".join(DUMMIES)} >/dev/null 2>&1; rm -rf /etc/docker; mv /root/kept/docker /etc/docker
        rm -f /etc/apt/sources.list.d/dsctl.list; mv /root/kept/* /etc/apt/ 2>/dev/null; rm -rf /srv/repo
        rm -f /etc/sysctl.d/90-dsctl.conf /etc/modules-load.d/dsctl.conf /etc/security/limits.d/90-dsctl.conf
        rm -rf /etc/systemd/journald.conf.d /etc/logrotate.d/dsctl; userdel dsctl; true"""
    made.shell(NUMBER, "sh", "-c", restore)


def test_a_host_is_provisioned_once(operator: Operator) -> None:
    """A check shows all and changes nothing; then packages and files are there; a second run changes nothing at all."""
    name = operator.bed.hosts[NUMBER].name
    before = operator.shell(NUMBER, "cat", "/proc/sys/net/core/somaxconn")
    said = operator.run("provision", "--hosts", name, "--check", *GIVEN, "--driver", "570", code=3)
    assert "+net.core.somaxconn = 8192" in said
    assert operator.shell(NUMBER, "sh", "-c", "ls /etc/sysctl.d/90-dsctl.conf 2>/dev/null || true") == ""
    operator.run("provision", "--hosts", name, *GIVEN, "--driver", "570", code=8)

    operator.run("provision", "--hosts", name, *GIVEN, "--driver", "570", "--yes")
    for package, version in DUMMIES.items():
        assert operator.shell(NUMBER, "dpkg-query", "-W", "-f", "${Version} ${Status}", package) == (
            f"{version} install ok installed"
        )
    daemon = json.loads(operator.shell(NUMBER, "cat", "/etc/docker/daemon.json"))
    assert daemon["log-opts"]["max-file"] == "3"
    assert "nvidia" in daemon["runtimes"]
    assert operator.shell(NUMBER, "id", "-u", "dsctl").strip() == "10001"
    assert (
        operator.shell(NUMBER, "cat", "/proc/sys/net/core/somaxconn") == before
    )  # a container's kernel is not its own

    again = operator.start("provision", "--hosts", name, *GIVEN, "--driver", "570", "--yes", "--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    told = json.loads(out)["hosts"]
    assert [(each["host"], each["changed"], each["failed"]) for each in told] == [(name, [], "")]


def test_the_playbooks_work_by_hand(operator: Operator, tmp_path: Path) -> None:
    """`ansible-playbook playbooks/site.yml` needs nothing of dsctl; after dsctl it finds nothing to change."""
    host = operator.bed.hosts[NUMBER]
    operator.run("provision", "--hosts", host.name, *GIVEN)
    options = f"-o UserKnownHostsFile={operator.bed.known_hosts} -i {operator.bed.key}"
    (tmp_path / "hosts.ini").write_text(f"{host.name} ansible_host={host.address} ansible_user=op "
                                        f'ansible_ssh_common_args="{options}"\n')  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(
        {"apt_lines": ["deb [trusted=yes] file:/srv/repo ./"], "toolkit_wanted": True, "kernel_modules": ["ib_uverbs"]}
    ))  # fmt: skip
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    said = run([ansible, "-i", str(tmp_path / "hosts.ini"), "-e", f"@{tmp_path / 'given.json'}",
                str(ROOT / "playbooks" / "site.yml")])  # fmt: skip
    assert "changed=0" in said
    assert "unreachable=0" in said
    assert "failed=0" in said


def test_a_host_whose_key_is_not_known_is_not_touched(operator: Operator) -> None:
    """Without the host's key in known_hosts nothing is done: exit 6."""
    (operator.directory / "known_hosts").write_text("")
    said = operator.run("provision", "--hosts", operator.bed.hosts[NUMBER].name, "--only", "users", code=6)
    assert "Host key verification failed" in said
