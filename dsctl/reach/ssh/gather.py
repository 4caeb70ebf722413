"""Looking at a host once: the collector over stdin and Docker's API on the same connection → HostFacts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import docker.errors
import paramiko
import requests

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.facts import dockerreport, report
from dsctl.facts.host import LABEL, Container, Disk, Docker, HostFacts
from dsctl.facts.report import Report
from dsctl.reach.ssh.host import Host

DOCKER_FAILS = (
    docker.errors.DockerException, requests.RequestException, paramiko.SSHException, OSError, EOFError, DsctlError
)  # fmt: skip


def facts(host: Host, *, state_dir: str, directories: Sequence[str] = (), fabric: str = "") -> HostFacts | Missing:
    """Everything the host says; Missing when it could not be asked. What it does not know is Missing inside.

    `directories` are asked for checkpoints; `fabric` is the address or interface hosts reach each other by.
    """
    try:
        login = host.login
        began = time.time()
        done = host.script(report.collector(), state_dir, *directories, deadline_s=120, root=True, again=True)
        asked_at = (began + time.time()) / 2
    except DsctlError as error:
        return Missing("\n".join(error.lines()))
    told = report.parse(done.text)
    if isinstance(told, Missing):
        return Missing(f"{host.name}: {told.reason} {done.err.strip()}".strip())
    engine, containers = _docker(host)
    clock, cgroup, cores = told.number("time"), told.number("cgroup"), told.number("cores")
    digests, disks = report.models(told)
    return HostFacts(
        name=host.name, address=report.address(told, fabric, login.address), os=report.os_name(told),
        kernel=told.line("kernel"), arch=told.line("arch"), cores=cores if isinstance(cores, Missing) else int(cores),
        memory=report.memory(told, "MemTotal"), available=report.memory(told, "MemAvailable"),
        disks={"state": report.disk(told, "disk:state"), "docker": _docker_disk(host, engine),
               **({"weights": next(iter(disks.values()))} if disks else {})},
        docker=engine, gpus=report.gpus(told), driver=report.driver(told), ports=report.ports(told),
        containers=containers, projects=report.projects(told),
        skew=clock if isinstance(clock, Missing) else clock - asked_at,
        cgroup=cgroup if isinstance(cgroup, Missing) else int(cgroup), user=login.user,
        is_root=login.power == "root", uid=login.uid, gid=login.gid,
        sudo=True if login.power.startswith("sudo") else Missing("sudo -n does not work for this user"),
        systemd=told.line("systemd"), weights=digests,
    )  # fmt: skip


def _docker(host: Host) -> tuple[Docker | Missing, tuple[Container, ...] | Missing]:
    """The engine and the containers that carry our labels."""
    try:
        way = host.docker_way()
        if isinstance(way, Missing):
            return way, Missing(f"no Docker: {way.reason}")
        api: Any = host.docker(30.0)
        version, info, images = api.version(), api.info(), api.images()
        engine = dockerreport.engine(version, info, images, way.kind, way.socket)
        return engine, containers(api)
    except DOCKER_FAILS as error:
        why = Missing(f"Docker does not answer: {error}")
        return why, why


def containers(api: Any) -> tuple[Container, ...]:
    """Every container of ours on one engine; one that vanishes meanwhile is left out."""
    listed = cast("list[dict[str, Any]]", api.containers(all=True, filters={"label": f"{LABEL}project"}))
    found: list[Container] = []
    for each in listed:
        try:
            found.append(dockerreport.container(api.inspect_container(each["Id"])))
        except docker.errors.NotFound:
            continue
    return tuple(found)


def _docker_disk(host: Host, engine: Docker | Missing) -> Disk | Missing:
    """The file system that holds images."""
    if isinstance(engine, Missing):
        return engine
    if isinstance(engine.root, Missing):
        return engine.root
    script = 'df -P -k "$1" | tail -n 1; echo'
    done = host.run(["sh", "-c", script, "sh", engine.root], root=True, again=True)
    return report.disk(Report({"disk": done.text}), "disk")
