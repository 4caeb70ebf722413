"""`weights push|verify|ls|gc`: the checkpoint on every host, brought by the hosts themselves, whole or not at all."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from dsctl.base.errors import DsctlError, PartialError, PreflightError, UsageError
from dsctl.base.fleetstep import Cargo, DropWeights, FleetStep
from dsctl.base.missing import Missing
from dsctl.base.units import seconds, size
from dsctl.base.voice import Voice
from dsctl.facts.host import HostFacts
from dsctl.facts.weights import LISTED, Stored, parse_listed
from dsctl.flows.fleet import AT_ONCE, Fleet, check_hold, check_reached, observe, wish_of
from dsctl.flows.fleetapply import apply_fleet
from dsctl.flows.fleetweights import Source, find, held_by, hosts_of, steps
from dsctl.planning.eta import eta
from dsctl.planning.fleetground import ground_steps
from dsctl.planning.fleetseen import Seen, parse_release
from dsctl.planning.fleetwish import FleetWish, owner


@dataclass(frozen=True, slots=True)
class Push:
    """What a push would do."""

    steps: tuple[FleetStep, ...]
    eta_s: float | Missing
    directory: str
    size: int


def plan_push(fleet: Fleet, text: str) -> Push:
    """The steps after which every host has what the source has."""
    source = find(fleet, _source(fleet, text))
    wider = _with(fleet, source)
    seen = observe(wider)
    check_reached(wider, seen)
    check_hold(seen)
    return _planned(wider, seen, source)


def push(fleet: Fleet, text: str, voice: Voice) -> Push:
    """Carries that out; run again it goes on where it stopped."""
    source = find(fleet, _source(fleet, text))
    if source.kind == "here" and not source.root:
        source = replace(source, root=_hash_here(source, voice))
    wider = _with(fleet, source)
    seen = observe(wider)
    check_reached(wider, seen)
    check_hold(seen)
    planned = _planned(wider, seen, source)
    if not planned.steps:
        return planned
    expected = planned.eta_s.reason if isinstance(planned.eta_s, Missing) else f"about {seconds(planned.eta_s)}"
    voice.say(f"{len(planned.steps)} steps for {size(planned.size)}; how long: {expected}")
    door = wider.door(seen)
    with door.held("weights"):
        seen = observe(wider)
        planned = _planned(wider, seen, source)
        apply_fleet(planned.steps, door, voice, "weights")
    return planned


def verify(fleet: Fleet, voice: Voice) -> list[dict[str, object]]:
    """Every chunk on every host hashed anew; where one is wrong, the next push brings it."""
    from dsctl.reach.weights.carrying import Carrier

    seen = observe(fleet)
    check_reached(fleet, seen)
    wish = _wish(fleet, seen)
    held = {host: each for host, each in held_by(fleet, seen, wish).items() if each.is_there or each.root}
    if not held:
        raise PreflightError(f"no host has weights in {wish.model_dir}", hint="dsctl weights push")
    _check_image(wish, seen, list(held))
    owners = tuple((host, owner(seen.facts(host))) for host in held)
    cargo = Cargo(wish.model_dir, "", "", max(each.size for each in held.values()), wish.image, owners)
    door = fleet.door(seen)
    carrier = Carrier(door.hosts, fleet.pause_s)

    def check(host: str) -> dict[str, object]:
        began = time.monotonic()
        told = carrier.check(door.hosts[host], cargo, voice)
        bad = list(told.bad) or ([told.error] if told.state != "done" else [])
        voice.say(f"{host}: {size(told.present)} hashed in {seconds(time.monotonic() - began)}")
        return {"host": host, "root": told.root[:16], "size": told.total, "whole": not bad, "bad": bad}

    with door.held("weights"), ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(check, held))


def ls(fleet: Fleet) -> list[dict[str, object]]:
    """The models in each host's store, whether they are whole, and who uses them."""
    seen = observe(fleet)
    store = _store(fleet)
    rows: list[dict[str, object]] = []
    for host, found in _stored(fleet, seen, store).items():
        used = _used(seen, host)
        for each in found:
            path = posixpath.join(store, each.name)
            state = "partial" if each.is_partial else "verified" if each.root else "not verified"
            rows.append({"host": host, "directory": path, "size": size(each.size), "state": state,
                         "root": each.root[:16], "used": path in used})  # fmt: skip
    return rows


def plan_gc(fleet: Fleet) -> list[FleetStep]:
    """Weights that came through dsctl and that no kept release of any project on the host names."""
    seen = observe(fleet)
    check_reached(fleet, seen)
    return _garbage(fleet, seen)


def gc(fleet: Fleet, voice: Voice) -> list[FleetStep]:
    """Removes them; asks first."""
    found = plan_gc(fleet)
    if not found:
        return []
    voice.confirm(f"this removes weights from {len({step.host for step in found})} hosts", "--yes")
    seen = observe(fleet)
    door = fleet.door(seen)
    with door.held("weights"):
        found = _garbage(fleet, observe(fleet))
        apply_fleet(found, door, voice, "weights")
    return found


# inside


def _source(fleet: Fleet, text: str) -> str:
    chosen = text or fleet.settings.text("weights.source")
    if not chosen:
        raise UsageError("no source is named", hint="dsctl weights push SOURCE, or weights.source in dsctl.yaml")
    return chosen


def _with(fleet: Fleet, source: Source) -> Fleet:
    """The host that has the weights is looked at and prepared like those that get them."""
    return replace(fleet, fronts=hosts_of(source, fleet.fronts))


def _wish(fleet: Fleet, seen: Seen) -> FleetWish:
    wish = wish_of(fleet, seen, 0)
    if not wish.model_dir:
        raise UsageError(
            "this engine needs no weights", hint="engine.kind: dsctl, and `model`: a directory on the hosts"
        )
    return wish


def _planned(fleet: Fleet, seen: Seen, source: Source) -> Push:
    wish = _wish(fleet, seen)
    brought = steps(fleet, seen, wish, source, held_by(fleet, seen, wish))
    ground = ground_steps(wish, seen, "", {}) if brought else []
    every = (*ground, *brought)
    return Push(every, eta(every, seen.loads), wish.model_dir, source.size)


def _hash_here(source: Source, voice: Voice) -> str:
    from pathlib import Path

    from dsctl.reach.weights import index
    from dsctl.reach.weights.carrying import memory_of

    began, count = time.monotonic(), 0

    def told(more: int) -> None:
        nonlocal count
        count += more
        voice.waiting(f"hashing {source.directory}: {size(count)} of {size(source.size)}", time.monotonic() - began, 0)

    voice.say(f"hashing {size(source.size)} in {source.directory}")
    return index.build(Path(source.directory), memory=memory_of(source.directory), told=told).root()


def _store(fleet: Fleet) -> str:
    model = fleet.settings.text("model")
    if not model.startswith("/"):
        raise UsageError(f"model: {model!r} is no directory on the hosts", hint="model: /data/models/NAME")
    return posixpath.dirname(model)


def _stored(fleet: Fleet, seen: Seen, store: str) -> Mapping[str, Sequence[Stored]]:
    hosts = [host for host in fleet.hosts if isinstance(seen.fleet.get(host), HostFacts)]

    def ask(host: str) -> Sequence[Stored]:
        told = fleet.doors[host].look(LISTED, store)
        if isinstance(told, Missing):
            raise DsctlError(f"{host}: {store} cannot be listed", why=told.reason)
        return parse_listed(told)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(hosts, pool.map(ask, hosts), strict=True))


def _used(seen: Seen, host: str) -> set[str]:
    """The directories that releases of any project on the host name; PartialError when they cannot be read."""
    facts = seen.facts(host)
    if isinstance(facts.projects, Missing):
        raise PartialError(f"{host}: which releases it keeps is not known", why=facts.projects.reason)
    found: set[str] = set()
    for state in facts.projects.values():
        for path, text in state.files.items():
            release = parse_release(text) if path.startswith("releases/") else None
            if release is not None and isinstance(release, Missing):
                raise PartialError(f"{host}: {path} cannot be read", why=release.reason)
            if release is not None:
                found.add(str(release.settings.get("model", "")))
    return found


def _garbage(fleet: Fleet, seen: Seen) -> list[FleetStep]:
    store, kept = _store(fleet), fleet.settings.text("model")
    found: list[FleetStep] = []
    for host, stored in _stored(fleet, seen, store).items():
        used = {*_used(seen, host), kept}
        there = {each.name for each in stored}
        for each in stored:
            base = each.name.removesuffix(".partial").removesuffix(".old")
            path = posixpath.join(store, base)
            if path in used or not (each.root or each.is_partial) or (each.is_partial and base in there):
                continue
            found.append(FleetStep(host, f"remove {path} ({size(each.size)}) from {host}", DropWeights(path)))
    return list(dict.fromkeys(found))


def _check_image(wish: FleetWish, seen: Seen, hosts: Sequence[str]) -> None:
    from dsctl.facts.host import Docker

    for host in hosts:
        docker = seen.facts(host).docker
        if not isinstance(docker, Docker) or wish.image not in docker.images:
            raise PreflightError(f"{host} does not have {wish.image}, which would hash them",
                                 hint="dsctl weights push or dsctl deploy brings it")  # fmt: skip
