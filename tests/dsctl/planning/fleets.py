"""Fleets in a few words: hosts, cards and containers for tests and benchmarks of planning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsctl.base.container import Copy, container_name
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, Disk, Docker, Driver, Gpu, HostFacts, ProjectState
from dsctl.planning.fleetseen import Release, show_release
from dsctl.planning.fleetwish import FleetWish, Front

GIB = 1 << 30
IMAGE = "engine:1"
IMAGE_ID = "sha256:aaa"


def cards(host: str, count: int, **changes: Any) -> tuple[Gpu, ...]:
    """`count` cards of one host."""
    memory = 80 * GIB
    made = (Gpu(n, f"GPU-{host}-{n}", "NVIDIA A100-SXM4-80GB", memory, memory, (8, 0)) for n in range(count))
    return tuple(replace(card, **changes) for card in made)


def host(name: str, number: int = 1, **changes: Any) -> HostFacts:
    """A healthy host without cards and without anything of ours."""
    disk = Disk("/var/lib", 500 * GIB, 400 * GIB)
    docker = Docker("28.1", "1.49", "/var/run/docker.sock", "streamlocal", "/var/lib/docker", images={IMAGE: IMAGE_ID})
    base = HostFacts(
        name=name, address=f"10.0.{number // 250}.{number % 250 + 1}", os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0", arch="x86_64", cores=16, memory=64 * GIB, available=60 * GIB,
        disks={"state": disk, "docker": disk},
        docker=docker,
        gpus=(), driver=Missing("no driver"), ports=frozenset({22}), containers=(), projects={}, skew=0.1, cgroup=2,
        user="root", is_root=True, uid=0, gid=0,
    )  # fmt: skip
    return replace(base, **changes)


def gpu_host(name: str, number: int, count: int, **changes: Any) -> HostFacts:
    """A host with A100 cards and all they need."""
    plain = host(name, number)
    assert isinstance(plain.docker, Docker)
    docker = replace(plain.docker, runtimes=("nvidia", "runc"))
    found = replace(plain, gpus=cards(name, count), driver=Driver("570.1", "12.8", "1.17"), docker=docker)
    return replace(found, **changes)


def wish(hosts: tuple[str, ...], **changes: Any) -> FleetWish:
    """An oracle service on these hosts, the first two of them front hosts."""
    base = FleetWish(
        project="prod", kind="oracle", model="m", model_dir="", replicas=len(hosts), hosts=hosts, fronts=hosts[:2],
        front=Front(8080, 20080), image=IMAGE, front_image=IMAGE, device="cpu", max_per_host=4, soak_s=0,
    )  # fmt: skip
    return replace(base, **changes)


def running(wished: FleetWish, facts: HostFacts, name: str, port: int, **changes: Any) -> Container:
    """A healthy container of one copy."""
    told = {key: changes.pop(key) for key in ("spec_hash", "gpus") if key in changes}
    copy = Copy(wished.project, name, told.get("spec_hash", wished.spec_hash), str(facts.address), port,
                tuple(told.get("gpus", ())), 1)  # fmt: skip
    base = Container(container_name(wished.project, name), f"id-{name}", IMAGE_ID, "running", copy.labels(), "healthy")
    return replace(base, **changes)


def table(rows: list[dict[str, Any]], generation: int = 5) -> str:
    """replicas.json."""
    whole = [{"weight": 1, "state": "active", **row} for row in rows]
    return json.dumps({"generation": generation, "replicas": whole})


def release(number: int, wished: FleetWish, outcome: str = "good") -> str:
    """A release's record."""
    return show_release(Release(number, outcome, wished.spec_hash, wished.replicas, wished.image, {}, ""))


def with_state(facts: HostFacts, project: str, files: Mapping[str, str], loads: tuple[str, ...] = ()) -> HostFacts:
    """The host with these files below the project's directory."""
    before = {} if isinstance(facts.projects, Missing) else dict(facts.projects)
    old = before[project].files if project in before else {}
    before[project] = ProjectState({**old, **files}, (), loads)
    return replace(facts, projects=before)
