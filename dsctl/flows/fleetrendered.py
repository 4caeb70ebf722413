"""render docker, compose, nginx, systemd: what a deploy would make of an example host, without a host."""

from __future__ import annotations

import json

from dsctl.base.container import Copy
from dsctl.base.missing import Missing
from dsctl.config.settings import Settings
from dsctl.facts.host import HostFacts
from dsctl.flows.imagecontext import dockerfile
from dsctl.planning.compose import compose
from dsctl.planning.fleetwish import (
    FleetWish,
    fleet_wish,
    gateway_container,
    nginx_container,
    nginx_values,
    replica_container,
)
from dsctl.planning.rendering import render

NOT_ASKED = Missing("an example")
ADDRESS, OTHER = "192.0.2.1", "192.0.2.2"  # documentation addresses


def docker(settings: Settings) -> dict[str, str]:
    """The Dockerfiles: engine where the processor computes, engine where cards do, and the front."""
    cpu, cuda = settings.text("image.cpu_base"), settings.text("image.cuda_base")
    return {
        "engine.cpu.Dockerfile": dockerfile("engine", cpu, settings),
        "engine.cuda.Dockerfile": dockerfile("engine", cuda, settings),
        "front.Dockerfile": dockerfile("front", cpu, settings),
    }


def compose_file(settings: Settings) -> dict[str, str]:
    """One front host with the copies it would hold, as a compose file."""
    wish = _wish(settings)
    facts = _example()
    is_cuda = settings.text("engine.device") == "cuda"
    containers = [gateway_container(wish, facts, ADDRESS), nginx_container(wish, facts, ADDRESS)]
    for number in range(1, settings.integer("replicas") + 1):
        first = (number - 1) * wish.gpus
        gpus = tuple(f"GPU-example-{n}" for n in range(first, first + wish.gpus)) if is_cuda else ()
        port = wish.first_port + number - 1
        copy = Copy(wish.project, f"r{number}", wish.spec_hash, ADDRESS, port, gpus, 1)
        containers.append(replica_container(wish, copy, facts, 4))
    return {"compose.json": json.dumps(compose(wish.project, containers), indent=2) + "\n"}


def nginx(settings: Settings) -> dict[str, str]:
    """nginx.conf of the first of two front hosts."""
    values = nginx_values(_wish(settings), "front1", {"front1": ADDRESS, "front2": OTHER})
    return {"nginx.conf": render("nginx/nginx.conf.j2", values)}


def systemd(_: Settings) -> dict[str, str]:
    """The unit that keeps containers waiting until the cards answer."""
    values = {"timeout_s": 900, "has_fabric": True}
    return {"dsctl-gpu-ready.service": render("systemd/dsctl-gpu-ready.service.j2", values)}


def _wish(settings: Settings) -> FleetWish:
    model = settings.text("model")
    model_dir = "" if settings.text("engine.kind") == "oracle" else model if model.startswith("/") else f"/data/{model}"
    return fleet_wish(settings, ("front1", "front2"), ("front1", "front2"), replicas=settings.integer("replicas"),
                      model_dir=model_dir)  # fmt: skip


def _example() -> HostFacts:
    """A host that is root's and says nothing else."""
    no = NOT_ASKED
    return HostFacts(
        name="front1", address=ADDRESS, os=no, kernel=no, arch=no, cores=16, memory=no, available=no, disks={},
        docker=no, gpus=no, driver=no, ports=no, containers=no, projects=no, skew=no, cgroup=no, is_root=True,
    )  # fmt: skip
