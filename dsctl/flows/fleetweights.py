"""Which hosts lack the weights, where they come from, and the steps that bring them: `weights push` and `deploy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import DsctlError, PreflightError, UsageError
from dsctl.base.fleetstep import Cargo, FleetStep, PullWeights
from dsctl.base.missing import Missing
from dsctl.facts.host import HostFacts
from dsctl.facts.weights import HELD, Held, parse_held
from dsctl.flows.fleet import AT_ONCE, Fleet
from dsctl.planning import spreading
from dsctl.planning.fleetseen import Seen
from dsctl.planning.fleetwish import FleetWish, owner

Place = tuple[str, str]  # directory, address


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights come from."""

    text: str  # as the operator calls it
    kind: str  # here | host | mirror
    host: str = ""
    directory: str = ""
    size: int = 0
    root: str = ""  # where it is known without reading everything


def steps(fleet: Fleet, seen: Seen, wish: FleetWish, source: Source, held: Mapping[str, Held]) -> list[FleetStep]:
    """The steps after which every host of the wish has what the source has; PreflightError where there is no room."""
    root = source.root or next((h.root for h in held.values() if h.root and h.origin == source.text), "")
    there = [host for host, each in held.items() if each.root and each.root == root]
    wanting = [host for host in held if host not in there] if root else [h for h, e in held.items() if not e.is_there]
    if not wanting:
        return []
    _check_use(wish, seen, {host: held[host] for host in wanting})
    facts = {host: seen.facts(host) for host in hosts_of(source, tuple(held)) if host in seen.fleet}
    total = source.size or max(each.present for each in held.values())
    if short := spreading.lacking(wanting, held, total):
        why = "\n".join(f"{host}: {reason}" for host, reason in short.items())
        raise PreflightError(f"{len(short)} hosts have no room for the weights", why=why, hint="dsctl weights gc")
    addresses = {host: str(each.address) for host, each in facts.items()}
    rate = fleet.settings.integer("weights.rate_mib") * float(1 << 20)
    owners = tuple((host, owner(each)) for host, each in facts.items())
    cargo = Cargo(wish.model_dir, source.text, root, total, wish.image, owners, rate)
    wanting = spreading.ordered(wanting, held, total)
    holders: dict[str, Place] = {host: (wish.model_dir, addresses[host]) for host in there}
    if holders:
        return spreading.spread_steps(cargo, holders, wanting, addresses)
    if source.kind == "mirror":
        first, rest = wanting[0], wanting[1:]
        pulled = _pull(fleet, cargo, first)
        return [pulled, *spreading.spread_steps(cargo, {first: (wish.model_dir, addresses[first])}, rest, addresses)]
    if source.kind == "here":
        return spreading.spread_steps(cargo, {spreading.HERE: (source.directory, "")}, wanting, addresses)
    place = (source.directory, _address(seen, source.host))
    if source.host in wanting and source.directory == wish.model_dir:
        wanting.remove(source.host)
    return spreading.spread_steps(cargo, {source.host: place}, wanting, addresses)


def deploy_steps(fleet: Fleet, seen: Seen, wish: FleetWish) -> tuple[FleetStep, ...]:
    """For `deploy`: nothing without weights.source, or where every host has them."""
    text = fleet.settings.text("weights.source")
    if not text or not wish.model_dir:
        return ()
    source = find(fleet, text)
    if source.host and source.host not in (*wish.hosts, *wish.fronts):
        held = held_by(fleet, seen, wish)
        if all(each.is_there for each in held.values()):
            return ()
        raise PreflightError(
            f"{source.host}, which has the weights, is no host of {fleet.project}",
            hint="dsctl weights push first; it may take them from any host of the inventory",
        )
    return tuple(steps(fleet, seen, wish, source, held_by(fleet, seen, wish)))


def held_by(fleet: Fleet, seen: Seen, wish: FleetWish) -> dict[str, Held]:
    """What each host of the wish has of its weights."""
    hosts = [host for host in wish.hosts if isinstance(seen.fleet.get(host), HostFacts)]

    def ask(host: str) -> Held:
        text = fleet.doors[host].look(HELD, wish.model_dir)
        return Held(0) if isinstance(text, Missing) else parse_held(text)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(hosts, pool.map(ask, hosts), strict=True))


def find(fleet: Fleet, text: str) -> Source:
    """What the source is and how large; it is not read."""
    if text.startswith(("http://", "https://")):
        return Source(text, "mirror", size=_mirror_size(fleet, text))
    host, colon, directory = text.partition(":")
    if colon and "/" not in host:
        if not directory.startswith("/"):
            raise UsageError(f"{text!r}: after the host comes an absolute path", hint="gpu01:/data/models/NAME")
        return _on_host(fleet, text, host, directory)
    return _here(fleet, text)


def config_of(fleet: Fleet) -> str | Missing:
    """config.json of weights.source, before any host has it; Missing when it cannot be seen from here."""
    source = find(fleet, fleet.settings.text("weights.source"))
    if source.kind == "here":
        return (Path(source.directory) / "config.json").read_text(encoding="utf-8")
    if source.kind == "host":
        return fleet.doors[source.host].peek(f"{source.directory}/config.json")
    return Missing(f"what {source.text} needs is known once a host has it")


def _here(fleet: Fleet, text: str) -> Source:
    from dsctl.reach.weights import index
    from dsctl.reach.weights.carrying import memory_of

    base = fleet.settings.source.parent if fleet.settings.source else Path.cwd()
    path = base / Path(text).expanduser()
    if not (path / "config.json").is_file():
        raise PreflightError(f"weights.source: {path} has no config.json", hint="a directory in Hugging Face layout")
    return Source(
        text, "here", directory=str(path), size=index.size(path), root=index.known_root(path, memory_of(str(path)))
    )


def _on_host(fleet: Fleet, text: str, host: str, directory: str) -> Source:
    from dsctl.config.inventory import Entry

    if host not in fleet.inventory.hosts:
        raise UsageError(f"{text!r}: no host {host} in the inventory", hint="dsctl hosts ls")
    if host not in fleet.doors:
        fleet.doors[host] = fleet.open_door(fleet.inventory.hosts.get(host, Entry(host)))
    told = fleet.doors[host].look(HELD, directory)
    if isinstance(told, Missing):
        raise PreflightError(f"{host} cannot be asked for {directory}", why=told.reason)
    found = parse_held(told)
    if not found.is_there:
        raise PreflightError(f"{host} has no checkpoint in {directory}", hint="a directory with config.json")
    return Source(text, "host", host, directory, found.size, found.root)


def _mirror_size(fleet: Fleet, url: str) -> int:
    """Bytes, where this machine reaches the mirror too; 0 where only the hosts do."""
    from dsctl.reach.weights.mirror import Mirror, MirrorError

    mirror = Mirror(url, token(fleet), fleet.settings.text("weights.proxy"), tries=2)
    try:
        return sum(size for size, _ in mirror.sizes().values())
    except MirrorError:
        return 0
    finally:
        mirror.close()


def token(fleet: Fleet) -> str:
    """The mirror's token; empty when none is named."""
    path = token_file(fleet)
    try:
        return path.read_text(encoding="utf-8").strip() if path else ""
    except OSError as error:
        raise PreflightError(f"weights.token_file: {path} cannot be read: {error.strerror}") from error


def token_file(fleet: Fleet) -> Path | None:
    """Where it lies on this machine."""
    named = fleet.settings.text("weights.token_file")
    base = fleet.settings.source.parent if fleet.settings.source else Path.cwd()
    return base / Path(named).expanduser() if named else None


def _pull(fleet: Fleet, cargo: Cargo, host: str) -> FleetStep:
    action = PullWeights(cargo, token_file(fleet), fleet.settings.text("weights.proxy"))
    return FleetStep(host, f"pull the weights from {cargo.origin} to {cargo.directory} on {host}", action)


def _check_use(wish: FleetWish, seen: Seen, wanting: Mapping[str, Held]) -> None:
    """Weights that copies serve from are not exchanged under them; the same ones may be repaired."""
    serving = {each.host for each in seen.copies.values() if each.container.is_running}
    last = seen.last("good")
    in_use = not isinstance(last, Missing) and last.settings.get("model") == wish.model_dir
    hosts = [host for host, each in wanting.items() if each.root and host in serving] if in_use else []
    if hosts:
        raise PreflightError(
            f"copies on {', '.join(hosts)} serve from {wish.model_dir}, and the source has other weights",
            hint="name another directory in `model`, one for each revision; then deploy rolls the copies over",
        )


def _address(seen: Seen, host: str) -> str:
    facts = seen.fleet.get(host, Missing("not asked"))
    if isinstance(facts, Missing):
        raise PreflightError(f"{host}, which has the weights, does not answer", why=facts.reason)
    if isinstance(facts.address, Missing):
        raise DsctlError(f"{host} has no address that other hosts reach", why=facts.address.reason)
    return facts.address


def hosts_of(source: Source, hosts: Sequence[str]) -> tuple[str, ...]:
    """All hosts that have to be asked: those that get weights and the one that has them."""
    return tuple(dict.fromkeys([*hosts, *([source.host] if source.host else [])]))
