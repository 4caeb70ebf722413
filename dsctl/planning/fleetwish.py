"""A fleet as it should be: what the settings ask of which hosts, and every container that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from dsctl import __version__
from dsctl.base.container import SCHEMA_VERSION, ContainerSpec, Copy, Health, Mount, container_name
from dsctl.base.missing import Missing
from dsctl.config.schema import Scalar
from dsctl.config.settings import Settings
from dsctl.facts.host import LABEL, HostFacts
from dsctl.planning.wish import REPLICA_STOP_S, engine_arguments, short_hash

OWNER = 10001  # user and group of the containers where the login may give files away
SHM_FOR_CARDS = 8 << 30
ASK = ("python", "-m", "dsctl.gateway.ask")


@dataclass(frozen=True, slots=True)
class Front:
    """How clients get in."""

    port: int
    gateway_port: int
    server_names: tuple[str, ...] = ()
    rate_limit: int = 0
    is_tls: bool = False
    no_auth: bool = False


@dataclass(frozen=True, slots=True)
class CanaryWish:
    """How the first new copy of a change has to prove itself before the others follow."""

    share: float  # of all requests
    seconds: float
    wanted: int  # answers of it and of the old release, at least
    ttft_ratio: float
    holds: bool = False  # the change ends with the canary standing; somebody promotes or aborts it


@dataclass(frozen=True, slots=True)
class FleetWish:
    """One project on many hosts."""

    project: str
    kind: str  # dsctl | oracle
    model: str  # the id clients use
    model_dir: str  # on every host; empty: none is needed, or it lies in the image
    replicas: int
    hosts: tuple[str, ...]
    fronts: tuple[str, ...]
    front: Front
    image: str
    front_image: str
    device: str = "auto"  # auto | cpu | cuda
    gpus: int = 1  # of one copy
    nodes: int = 1  # hosts of one copy
    max_per_host: int = 0
    spread: str = "host"
    first_port: int = 21000
    flags: Mapping[str, Scalar] = field(default_factory=lambda: dict[str, Scalar]())
    checkpoint: str = ""  # digest of model_dir where it is known
    strategy: str = "auto"
    min_available: int = 0
    ready_timeout_s: float = 1800.0
    drain_timeout_s: float = 120.0
    soak_s: float = 5.0
    canary: CanaryWish | None = None
    gate_timeout_s: float = 60.0
    batch: int = 1
    state_dir: str = "/var/lib/dsctl"
    cpu_base: str = ""
    cuda_base: str = ""

    @property
    def spec_hash(self) -> str:
        """What makes one copy differ from another of an earlier wish; where it runs does not."""
        told = {
            "version": __version__, "kind": self.kind, "model": self.model, "dir": self.model_dir, "image": self.image,
            "checkpoint": self.checkpoint, "flags": dict(self.flags), "device": self.device,
            "gpus": self.gpus if self.device != "cpu" else 0, "nodes": self.nodes,
        }  # fmt: skip
        return short_hash(told)

    @property
    def home(self) -> str:
        """The project's directory on every host."""
        return f"{self.state_dir}/{self.project}"

    @property
    def available(self) -> int:
        """Fewest copies that must serve during a change."""
        return min(self.replicas, self.min_available) if self.min_available else max(0, self.replicas - 1)


def fleet_wish(
    settings: Settings, hosts: tuple[str, ...], fronts: tuple[str, ...], *, replicas: int, model_dir: str
) -> FleetWish:
    """The wish of `settings` for these hosts; `model_dir` is where the checkpoint lies on each of them."""
    text, integer, number = settings.text, settings.integer, settings.number
    built = f"dsctl-engine:{__version__}", f"dsctl-front:{__version__}"
    return FleetWish(
        project=settings.project, kind=text("engine.kind"), model=settings.model_name(), model_dir=model_dir,
        replicas=replicas, hosts=hosts, fronts=fronts,
        front=Front(
            integer("front.port"), integer("front.gateway_port"), tuple(text("front.server_names").split()),
            integer("front.rate_limit"), bool(text("front.tls_certificate")), settings.flag("gateway.no_auth"),
        ),
        image=text("image.name") or built[0], front_image=text("image.front") or text("image.name") or built[1],
        device=text("engine.device"), gpus=integer("placement.gpus_per_replica"),
        nodes=integer("placement.nodes_per_replica"), max_per_host=integer("placement.max_per_host"),
        spread=text("placement.spread"), first_port=integer("placement.first_port"), flags=settings.engine_flags(),
        strategy=text("rollout.strategy"), min_available=integer("rollout.min_available"),
        ready_timeout_s=number("rollout.ready_timeout_s"), drain_timeout_s=number("rollout.drain_timeout_s"),
        soak_s=number("rollout.soak_s"), canary=_canary(settings),
        gate_timeout_s=number("rollout.gate_timeout_s"), batch=integer("rollout.batch"),
        state_dir=text("inventory.state_dir"), cpu_base=text("image.cpu_base"), cuda_base=text("image.cuda_base"),
    )  # fmt: skip


def _canary(settings: Settings) -> CanaryWish | None:
    percent = settings.number("rollout.canary")
    if not percent:
        return None
    return CanaryWish(
        percent / 100, settings.number("rollout.canary_s"), settings.integer("rollout.canary_requests"),
        settings.number("rollout.canary_ttft"), settings.flag("rollout.canary_hold"),
    )  # fmt: skip


def device_of(wish: FleetWish, facts: HostFacts) -> str:
    """cuda or cpu: what computes a copy on that host."""
    if wish.device != "auto":
        return wish.device
    return "cuda" if not isinstance(facts.gpus, Missing) and facts.gpus else "cpu"


def device_base(wish: FleetWish, facts: HostFacts, kind: str) -> str:
    """What an image built on that host starts from."""
    return wish.cuda_base if kind == "engine" and device_of(wish, facts) == "cuda" else wish.cpu_base


def owner(facts: HostFacts) -> str:
    """The uid:gid containers run as: one that owns nothing else, or the login's own where it cannot give files away."""
    if facts.is_root or facts.sudo is True or isinstance(facts.uid, Missing):
        return f"{OWNER}:{OWNER}"
    gid = facts.uid if isinstance(facts.gid, Missing) else facts.gid
    return f"{facts.uid}:{gid}"


def replica_container(wish: FleetWish, copy: Copy, facts: HostFacts, threads: int) -> ContainerSpec:
    """The container of one copy."""
    module = "dsctl.oracle" if wish.kind == "oracle" else "engine.server"
    command = ["python", "-m", module, "--host", copy.address, "--port", str(copy.port), "--name", copy.name]
    command += ["--token-file", "/run/secrets/replica.token"]
    mounts = [Mount(f"{wish.home}/secrets/replica", "/run/secrets")]
    if wish.kind == "oracle":
        command += ["--model", wish.model]
    else:
        command += ["--model", "/model" if wish.model_dir else wish.model, "--served-model-name", wish.model]
        command += engine_arguments({**wish.flags, "threads": int(wish.flags.get("threads", 0)) or threads})
    if wish.model_dir:
        mounts.append(Mount(wish.model_dir, "/model"))
    has_cards = bool(copy.gpus)
    return ContainerSpec(
        name=container_name(wish.project, copy.name), image=wish.image, command=tuple(command), labels=copy.labels(),
        environment=_environment(wish, copy.name), mounts=tuple(mounts), user=owner(facts),
        health=Health((*ASK, f"{copy.url}/ready"), start_s=int(wish.ready_timeout_s)),
        gpus=copy.gpus, tmpfs=("/tmp:rw,exec,nosuid,nodev",),  # noqa: S108 - compiled kernels lie there; a tmpfs of its own
        shm_bytes=SHM_FOR_CARDS if has_cards else 64 << 20, memory_lock=has_cards, stop_s=REPLICA_STOP_S,
    )  # fmt: skip


def gateway_container(wish: FleetWish, facts: HostFacts, address: str) -> ContainerSpec:
    """The gateway of one front host; it listens where hosts reach each other, and nginx of the other fronts too."""
    front = wish.front
    grace = max(18, int(wish.drain_timeout_s))
    command = ["python", "-m", "dsctl.gateway", "--state-dir", "/run/dsctl", "--host", address]
    command += ["--port", str(front.gateway_port), "--shutdown-s", str(grace)]
    for name in front.server_names:
        command += ["--allow-host", name]
    if front.no_auth:
        command.append("--no-auth")
    spec = ContainerSpec(
        name=container_name(wish.project, "gateway"), image=wish.front_image, command=tuple(command), labels={},
        environment=_environment(wish, "gateway"),
        mounts=(Mount(f"{wish.home}/gateway", "/run/dsctl"), Mount(f"{wish.home}/secrets/front", "/run/secrets")),
        user=owner(facts), health=Health((*ASK, f"http://{address}:{front.gateway_port}/health"), start_s=30),
        stop_s=grace + 5,
    )  # fmt: skip
    return _labelled(spec, wish, "gateway", address, front.gateway_port)


def nginx_container(wish: FleetWish, facts: HostFacts, address: str) -> ContainerSpec:
    """nginx of one front host; a port below 1024 takes root with three capabilities instead of none."""
    port = wish.front.port
    scheme = "https" if wish.front.is_tls else "http"
    mounts = [Mount(f"{wish.home}/nginx", "/etc/dsctl")]
    if wish.front.is_tls:
        mounts.append(Mount(f"{wish.home}/secrets/nginx", "/run/secrets"))
    spec = ContainerSpec(
        name=container_name(wish.project, "nginx"), image=wish.front_image,
        command=("nginx", "-c", "/etc/dsctl/nginx.conf"), labels={}, environment={}, mounts=tuple(mounts),
        user="0:0" if port < 1024 else owner(facts),
        health=Health((*ASK, "--insecure", f"{scheme}://127.0.0.1:{port}/nginx-health"), start_s=10),
        stop_s=max(30, int(wish.drain_timeout_s)),
        capabilities=("NET_BIND_SERVICE", "SETGID", "SETUID") if port < 1024 else (),
    )  # fmt: skip
    return _labelled(spec, wish, "nginx", address, port)


def nginx_values(wish: FleetWish, name: str, addresses: Mapping[str, str]) -> dict[str, object]:
    """What nginx.conf of the front host `name` is made of: its own gateway first, the other fronts' as backups."""
    front = wish.front
    names = dict.fromkeys([*front.server_names, *addresses.values(), name, "localhost", "127.0.0.1"])
    gateways = [(addresses[name], False), *((a, True) for host, a in addresses.items() if host != name)]
    return {
        "port": front.port, "is_tls": front.is_tls, "rate_limit": front.rate_limit, "server_names": list(names),
        "gateways": [{"address": f"{a}:{front.gateway_port}", "is_backup": b} for a, b in gateways],
        "is_root": front.port < 1024, "drain_s": max(60, int(wish.drain_timeout_s)),
    }  # fmt: skip


def _environment(wish: FleetWish, program: str) -> dict[str, str]:
    return {
        "DSCTL_PROJECT": wish.project,
        "DSCTL_PROGRAM": program,
        "DSCTL_REPLICA_TOKEN_FILE": "/run/secrets/replica.token",
        **({"DSCTL_ADMIN_TOKEN_FILE": "/run/secrets/admin.token"} if program == "gateway" else {}),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _labelled(spec: ContainerSpec, wish: FleetWish, role: str, address: str, port: int) -> ContainerSpec:
    """The container with labels; their hash is over all the rest of it."""
    told = asdict(spec)
    labels = {
        "schema": str(SCHEMA_VERSION), "project": wish.project, "role": role, "spec": short_hash(told),
        "address": address, "port": str(port), "gpus": "", "release": "0",
    }  # fmt: skip
    return replace(spec, labels={LABEL + key: value for key, value in labels.items()})
