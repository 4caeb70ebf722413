"""What the user wants, worked out: each replica's command, the gateway's command, and the hash that tells a change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from dsctl import __version__
from dsctl.base.places import Places
from dsctl.config.schema import Scalar
from dsctl.config.settings import Settings
from dsctl.facts.programs import Label

REPLICA_STOP_S = 25  # an API process drains and ends within 20 s
GATEWAY_STOP_S = 30


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program for supervisord: its label, command, environment and patience."""

    label: Label
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    stop_wait_s: int


@dataclass(frozen=True, slots=True)
class Wish:
    """One project as it should be."""

    project: str
    kind: str  # dsctl | oracle
    model_dir: Path
    model: str  # the id clients use
    replicas: int
    flags: Mapping[str, Scalar]
    threads: int  # of one replica
    spec_hash: str  # of a replica
    gateway_host: str
    gateway_port: int  # 0: 8000 when free, else any
    no_auth: bool
    strategy: str  # surge | drain-first; auto is surge on one machine
    ready_timeout_s: float
    drain_timeout_s: float


def wish(settings: Settings, *, replicas: int, checkpoint: str, cores: int, python: str = "") -> Wish:
    """The wish of `settings` for `replicas` copies of the checkpoint with that digest on a machine of `cores`.

    Another dsctl or another interpreter (`python`) is another wish: what runs from a removed one cannot restart.
    """
    flags = settings.engine_flags()
    kind, model = settings.text("engine.kind"), settings.model_name()
    spec = {
        "version": __version__, "python": python, "kind": kind, "model": model, "dir": str(settings.model_dir()),
        "checkpoint": checkpoint, "flags": flags,
    }  # fmt: skip
    return Wish(
        project=settings.project,
        kind=kind,
        model_dir=settings.model_dir(),
        model=model,
        replicas=replicas,
        flags=flags,
        threads=int(flags.get("threads", 0)) or max(1, cores // max(1, replicas)),
        spec_hash=short_hash(spec),
        gateway_host=settings.text("gateway.host"),
        gateway_port=settings.integer("gateway.port"),
        no_auth=settings.flag("gateway.no_auth"),
        strategy=settings.text("rollout.strategy").replace("auto", "surge"),
        ready_timeout_s=settings.number("rollout.ready_timeout_s"),
        drain_timeout_s=settings.number("rollout.drain_timeout_s"),
    )


def short_hash(value: object) -> str:
    """Twelve hex digits that stand for a JSON value."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def replica_spec(wished: Wish, name: str, port: int, places: Places, python: str) -> ProgramSpec:
    """The program of one replica."""
    label = Label(name, "replica", "127.0.0.1", port, wished.spec_hash, wished.model)
    module = "dsctl.oracle" if wished.kind == "oracle" else "engine.server"
    argv = [python, "-m", module, "--host", "127.0.0.1", "--port", str(port), "--name", name]
    argv += ["--token-file", str(places.replica_token)]
    if wished.kind == "oracle":
        argv += ["--model", wished.model]
    else:
        argv += ["--model", str(wished.model_dir), "--served-model-name", wished.model]
        argv += engine_arguments({**wished.flags, "threads": wished.threads})
    return ProgramSpec(label, tuple(argv), environment(places, name), REPLICA_STOP_S)


def engine_arguments(flags: Mapping[str, Scalar]) -> list[str]:
    """Engine settings as the engine's command line."""
    argv: list[str] = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            argv.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            argv += [f"--{flag}", str(value)]
    return argv


def gateway_spec(wished: Wish, port: int, places: Places, python: str) -> ProgramSpec:
    """The program of the gateway."""
    wanted = {
        "version": __version__, "python": python, "host": wished.gateway_host, "port": port, "no_auth": wished.no_auth,
    }  # fmt: skip
    label = Label("gateway", "gateway", wished.gateway_host, port, short_hash(wanted), "")
    argv = [python, "-m", "dsctl.gateway", "--state-dir", str(places.gateway)]
    argv += ["--host", wished.gateway_host, "--port", str(port)]
    if wished.no_auth:
        argv.append("--no-auth")
    return ProgramSpec(label, tuple(argv), environment(places, "gateway"), GATEWAY_STOP_S)


def environment(places: Places, program: str) -> dict[str, str]:
    """What every child finds in its environment: whose it is, and that its threads must not spin while they wait."""
    return {
        "DSCTL_HOME": str(places.home),
        "DSCTL_PROJECT": places.project,
        "DSCTL_PROGRAM": program,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }
