"""deploy and scale: look, plan, show, lock, apply, verify; running either again goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from dsctl.base.errors import ConfigError, PreflightError, UsageError
from dsctl.base.missing import Missing
from dsctl.base.step import Step, WriteFile
from dsctl.base.voice import Voice
from dsctl.config.settings import Settings
from dsctl.facts.checkpoint import digest
from dsctl.facts.programs import Label
from dsctl.flows.apply import apply
from dsctl.flows.foreground import need
from dsctl.flows.observe import observe
from dsctl.flows.project import Project, Release, last_release, show_release
from dsctl.planning.observed import Observed, number
from dsctl.planning.rollout import Ground, plan
from dsctl.planning.wish import Wish, wish

PREFERRED_PORT = 8000
PORT_RANGE = (20000, 32000)  # below what kernels hand out to outgoing connections, so a restart finds its port free
PORTS_TRIED = 400


@dataclass(frozen=True, slots=True)
class Planned:
    """What a deploy would do, and what it leads to."""

    steps: Sequence[Step]
    url: str
    model: str
    replicas: int


def deploy(project: Project, voice: Voice) -> Planned:
    """Makes the project what its settings say; returns what was done."""
    from dsctl.reach.lock import held

    with held(project.places.lock, "deploy"):
        planned = plan_deploy(project)
        apply(planned.steps, project.door, voice)
    return planned


def scale(project: Project, replicas: int, voice: Voice, *, is_dry: bool = False) -> Planned:
    """The same release with another number of replicas."""
    from dsctl.reach.lock import held

    if not 0 <= replicas <= 256:
        raise UsageError(f"{replicas} replicas: choose 0 to 256")
    if is_dry:
        return _plan_scale(project, replicas)
    _deployed(project)
    if replicas == 0:
        voice.confirm("scaling to 0 leaves nothing that answers", "--yes")
    with held(project.places.lock, "scale"):
        planned = _plan_scale(project, replicas)
        apply(planned.steps, project.door, voice)
    return planned


def _plan_scale(project: Project, replicas: int) -> Planned:
    return _plan(replace(project, settings=_deployed(project).settings), replicas)


def _deployed(project: Project) -> Release:
    """The release to scale; UsageError when nothing is deployed."""
    release = last_release(project)
    if isinstance(release, Missing):
        raise UsageError(f"nothing is deployed as {project.places.project}", hint="dsctl deploy")
    return release


def plan_deploy(project: Project) -> Planned:
    """The steps of a deploy, without doing any."""
    settings = project.settings
    release = last_release(project)
    if isinstance(release, Missing) or "replicas" in settings.given:
        return _plan(project, settings.integer("replicas"))
    return _plan(project, release.replicas)


def _plan(project: Project, replicas: int) -> Planned:
    settings, door, places = project.settings, project.door, project.places
    _check_parts(settings)
    wished = wish(
        settings, replicas=replicas, checkpoint=_checkpoint(project), cores=door.cores(), python=project.python
    )
    _check_listener(project, wished)
    seen = observe(project)
    ground = Ground(places, project.python, _ports(project, wished, seen), door.open_files())
    steps = plan(wished, seen, ground)
    release = show_release(settings, replicas)
    if door.read(places.release) != release:
        steps = [*steps, Step("record what is deployed", WriteFile(places.release, release))]
    port = wished.gateway_port or ground.ports["gateway"]
    url = Label("gateway", "gateway", wished.gateway_host, port, "", "").url
    return Planned(steps, url, wished.model, replicas)


def _checkpoint(project: Project) -> str:
    """The checkpoint's digest; ConfigError when there is none."""
    settings = project.settings
    if settings.text("engine.kind") == "oracle":
        return "oracle"
    directory = settings.model_dir()
    listing = project.door.listing(directory)
    found = listing if isinstance(listing, Missing) else digest(listing)
    if isinstance(found, Missing):
        raise ConfigError(
            f"model: {settings.text('model')!r} is not a checkpoint: {found.reason}",
            hint="model: the directory that holds config.json, or the name of a bundled model",
        )
    return found


def _check_parts(settings: Settings) -> None:
    """ExtraMissingError when a program of the deployment could not start for want of a package."""
    need("gateway", "deploy")
    if settings.text("engine.kind") == "dsctl":
        need("engine", "deploy")


def _check_listener(project: Project, wished: Wish) -> None:
    """PreflightError when everybody could use the front without a key and nobody said so."""
    is_local = wished.gateway_host in ("127.0.0.1", "::1", "localhost")
    has_keys = '"sha256"' in str(project.door.read(project.places.keys))
    if not is_local and not has_keys and not wished.no_auth:
        raise PreflightError(
            f"gateway.host {wished.gateway_host} can be reached from elsewhere, and there are no keys",
            hint="dsctl keys issue, or gateway.no_auth: true",
        )


def _ports(project: Project, wished: Wish, seen: Observed) -> dict[str, int]:
    """A free port for the gateway and every replica that may start: the remembered one when it is free."""
    import json

    kept = project.door.read(project.places.ports)
    remembered: dict[str, int] = {} if isinstance(kept, Missing) else json.loads(kept)
    taken = set(remembered.values()) | {label.port for label in seen.labels.values()}
    ports = {"gateway": _gateway_port(project, wished, seen, remembered)}
    highest = max([wished.replicas, *(number(name) for name in seen.replicas)], default=0)
    for name in (f"r{n}" for n in range(1, highest + wished.replicas + 2)):
        first = [remembered[name]] if name in remembered else []
        others = [port for port in _candidates(project, name) if port not in taken]
        ports[name] = project.door.free_port("127.0.0.1", first + others)
        taken.add(ports[name])
    return ports


def _gateway_port(project: Project, wished: Wish, seen: Observed, remembered: dict[str, int]) -> int:
    label = seen.gateway
    is_running = seen.is_up("gateway") or bool(seen.orphans_of("gateway"))
    if isinstance(label, Label) and is_running and wished.gateway_port in (0, label.port):
        return label.port
    if wished.gateway_port:
        return project.door.free_port(wished.gateway_host, [wished.gateway_port])
    first = [remembered["gateway"]] if "gateway" in remembered else []
    return project.door.free_port(wished.gateway_host, [*first, PREFERRED_PORT, *_candidates(project, "gateway")])


def _candidates(project: Project, name: str) -> list[int]:
    """Ports to try, starting somewhere else for every home, project and program."""
    low, high = PORT_RANGE
    seed = f"{project.places.root}/{name}".encode()
    start = int.from_bytes(sha256(seed).digest()[:4], "big") % (high - low)
    return [low + (start + step) % (high - low) for step in range(PORTS_TRIED)]
