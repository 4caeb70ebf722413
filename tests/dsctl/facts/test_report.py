"""What hosts print is understood: values where there are some, and the reason where there are none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dsctl.base.missing import Missing
from dsctl.facts import dockerreport, report
from dsctl.facts.host import Disk, Driver
from dsctl.facts.report import Report

HOSTS = Path(__file__).with_name("hosts")
GIB = 1 << 30


def read(name: str) -> Report:
    """A recorded host."""
    told = report.parse((HOSTS / f"{name}.txt").read_text())
    assert isinstance(told, Report)
    return told


def test_a_plain_host() -> None:
    """A host without cards: its system, disks, ports and what projects left on it; secrets were never sent."""
    told = read("debian12-x86_64")
    assert report.os_name(told) == "Debian GNU/Linux 12 (bookworm)"
    assert (told.line("arch"), told.number("cores"), told.number("cgroup")) == ("x86_64", 2.0, 1.0)
    assert 20 * GIB < int(report.memory(told, "MemTotal")) < 30 * GIB  # type: ignore[arg-type]
    assert 22 in report.ports(told)  # type: ignore[operator]
    disk = report.disk(told, "disk:state")
    assert isinstance(disk, Disk)
    assert (disk.path, disk.is_read_only) == ("/", False)
    assert 0 < disk.free < disk.total
    assert report.gpus(told) == ()
    assert report.driver(told) == report.NO_NVIDIA
    projects = report.projects(told)
    assert not isinstance(projects, Missing)
    state = projects["demo"]
    assert state.files == {"releases/1.json": '{"n": 1}\n', "fence": "3\n"}
    assert state.journal == ("a", "b")
    digests, disks = report.models(told)
    assert digests == {}
    assert isinstance(disks["/etc/nowhere"], Disk)
    assert report.address(told, "", "10.0.0.12") == "10.0.0.12"


def test_a_host_with_cards() -> None:
    """Cards with memory, capability, MIG and their processes; the driver with toolkit and fabric manager."""
    told = read("ubuntu2204-x86_64-a100")
    first, second = report.gpus(told)  # type: ignore[misc]
    assert (first.index, first.name, first.memory, first.capability) == (0, "NVIDIA A100-SXM4-80GB", 80 * GIB, (8, 0))
    assert (first.is_mig, first.pids, second.is_mig, second.pids) == (False, (), True, (41234, 41300))
    assert report.driver(told) == Driver("535.183.06", "12.2", "1.16.2", "535.183.06")
    assert report.ports(told) == {22, 25, 8080}
    assert report.address(told, "ib0", "192.168.4.11") == "10.10.0.11"
    assert report.address(told, "10.9.9.9", "192.168.4.11") == "10.9.9.9"
    assert isinstance(report.address(told, "ib1", ""), Missing)
    digests, disks = report.models(told)
    assert list(digests) == ["/data/models/r1"]
    assert disks["/data/models/r1"] == Disk("/data", 30002349056 << 10, 19500000000 << 10)
    assert told.line("systemd") == "systemd 249 (249.11-0ubuntu3.16)"


def test_a_broken_host() -> None:
    """A driver that is not loaded, a full read-only disk, tools that are not there: each absence has its reason."""
    told = read("ubuntu2404-aarch64-gh200")
    cards, driver = report.gpus(told), report.driver(told)
    assert isinstance(cards, Missing)
    assert "couldn't communicate with the NVIDIA driver" in cards.reason
    assert isinstance(driver, Missing)
    assert "not loaded" in driver.reason
    assert report.disk(told, "disk:state") == Disk("/", 956862528 << 10, 7623552 << 10, is_read_only=True)
    assert told.number("time") == 1764072000.0
    assert report.ports(told) == frozenset()
    for missing in (report.address(told, "eth0", ""), told.line("systemd"), told.line("cuda"), report.projects(told)):
        assert isinstance(missing, Missing)
        assert missing.reason


def test_half_an_answer_is_none() -> None:
    """A report without its last line is refused whole, and so is what is no report."""
    text = (HOSTS / "debian12-x86_64.txt").read_text()
    assert isinstance(report.parse(text.removesuffix("@@ end 0\n")), Missing)
    assert isinstance(report.parse("Welcome to this system\n"), Missing)
    assert isinstance(report.parse(""), Missing)
    assert isinstance(report.parse("motd\n" + text), Report)


def test_the_collector_runs_here(tmp_path: Path) -> None:
    """The script runs under this machine's sh, reads a state directory, and is silent about secrets."""
    project = tmp_path / "state" / "p 1"
    (project / "secrets").mkdir(parents=True)
    (project / "secrets" / "token").write_text("hidden")
    odd = {"odd": "@@ end 0\n@@ ports 0\n no\n", "open": "no end", "empty": "", "dots": "..\n.\n", "blank": "\n\n"}
    for name, text in odd.items():
        (project / name).write_text(text)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    argv = ["sh", "-s", "--", str(tmp_path / "state"), str(model)]
    done = subprocess.run(argv, input=report.collector(), capture_output=True, text=True, timeout=60, check=True)
    assert "hidden" not in done.stdout
    told = report.parse(done.stdout)
    assert isinstance(told, Report)
    projects = report.projects(told)
    assert not isinstance(projects, Missing)
    assert projects["p 1"].files == odd  # byte for byte
    assert not isinstance(told.number("cores"), Missing)
    digests, _ = report.models(told)
    assert len(digests[str(model)]) == 16


@pytest.mark.parametrize("rootless", [False, True])
def test_docker_as_its_api_tells(rootless: bool) -> None:
    """The engine, its images by tag, and a container with only our labels."""
    options = ["name=seccomp,profile=default", *(["name=rootless"] if rootless else [])]
    info = {"DockerRootDir": "/var/lib/docker", "Runtimes": {"runc": {}, "nvidia": {}}, "SecurityOptions": options,
            "Driver": "overlay2"}  # fmt: skip
    images = [{"Id": "sha256:1", "RepoTags": ["a:1", "b:1"]}, {"Id": "sha256:2", "RepoTags": None}]
    found = dockerreport.engine({"Version": "28.0", "ApiVersion": "1.48"}, info, images, "sudo", "/s")
    assert (found.images, found.runtimes, found.is_rootless) == (
        {"a:1": "sha256:1", "b:1": "sha256:1"}, ("nvidia", "runc"), rootless,
    )  # fmt: skip
    inspected = {
        "Name": "/dsctl-p-r1", "Id": "c", "Image": "sha256:1", "RestartCount": 2,
        "State": {"Status": "exited", "ExitCode": 137}, "Config": {"Labels": {"dsctl.project": "p", "other": "x"}},
    }  # fmt: skip
    container = dockerreport.container(inspected)
    assert (container.name, container.state, container.exit_code, container.restarts) == (
        "dsctl-p-r1",
        "exited",
        137,
        2,
    )
    assert dict(container.labels) == {"dsctl.project": "p"}
