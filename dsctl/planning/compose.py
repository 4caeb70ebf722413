"""Containers as a compose file: what a deploy creates, in the words of the Compose specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsctl.base.container import ContainerSpec


def compose(project: str, containers: Sequence[ContainerSpec]) -> dict[str, Any]:
    """One compose project with a service for each container."""
    services = {spec.name.removeprefix(f"dsctl-{project}-"): _service(spec) for spec in containers}
    return {"name": f"dsctl-{project}", "services": services}


def _service(spec: ContainerSpec) -> dict[str, Any]:
    health = spec.health
    service: dict[str, Any] = {
        "container_name": spec.name,
        "image": spec.image,
        "entrypoint": [],
        "command": [word.replace("$", "$$") for word in spec.command],
        "user": spec.user,
        "network_mode": "host",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "environment": dict(spec.environment),
        "labels": dict(spec.labels),
        "volumes": [
            {"type": "bind", "source": m.source, "target": m.target, "read_only": m.is_read_only} for m in spec.mounts
        ],
        "tmpfs": list(spec.tmpfs),
        "shm_size": spec.shm_bytes,
        "pids_limit": spec.processes,
        "restart": "unless-stopped",
        "stop_signal": "SIGTERM",
        "stop_grace_period": f"{spec.stop_s}s",
        "logging": {"driver": "json-file", "options": {"max-size": str(spec.log_bytes), "max-file": "3"}},
        "ulimits": {"nofile": {"soft": spec.open_files, "hard": spec.open_files}},
        "healthcheck": {
            "test": ["CMD", *health.command], "interval": f"{health.interval_s}s", "timeout": f"{health.timeout_s}s",
            "retries": health.retries, "start_period": f"{health.start_s}s",
        },
    }  # fmt: skip
    if spec.memory_lock:
        service["ulimits"]["memlock"] = {"soft": -1, "hard": -1}
    if spec.capabilities:
        service["cap_add"] = list(spec.capabilities)
    if spec.gpus:
        devices = [{"driver": "nvidia", "device_ids": list(spec.gpus), "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return service
