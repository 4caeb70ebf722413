"""What copies stand on: homes, secrets and images on every host, gateways and nginx on the front hosts, and records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsctl.base.container import ContainerSpec
from dsctl.base.fleetstep import (
    AwaitReady,
    BuildImage,
    DropRelease,
    FetchImage,
    FleetStep,
    Gate,
    MakeHome,
    PullImage,
    PutFile,
    PutSecret,
    Record,
    ReloadFront,
    RunContainer,
    ShareSecrets,
)
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, Docker
from dsctl.planning.fleetseen import Seen
from dsctl.planning.fleetwish import FleetWish, device_base, gateway_container, nginx_container, nginx_values
from dsctl.planning.rendering import render
from dsctl.planning.wish import short_hash

TOKENS = ("replica.token", "admin.token")
KEPT_RELEASES = 3  # good ones: the running one and two before it
FRONT_READY_S = 60.0
Secrets = Mapping[str, tuple[str, str]]  # nginx secret → the operator's file and the digest of what is in it


def ground_steps(wish: FleetWish, seen: Seen, record: str, secrets: Secrets) -> list[FleetStep]:
    """Homes, tokens, images and the pending record, where they are missing."""
    hosts = _answering(seen, [*wish.hosts, *wish.fronts])
    fronts = _answering(seen, wish.fronts)
    homeless = [host for host in hosts if isinstance(seen.file(host, "schema"), Missing)]
    steps = [FleetStep(host, f"make {wish.home} on {host}", MakeHome()) for host in homeless]
    marks = {seen.file(host, "secrets.id") for host in hosts}
    if hosts and (len(marks) > 1 or any(isinstance(mark, Missing) for mark in marks)):
        shared = ShareSecrets(tuple(hosts), TOKENS)
        steps.append(FleetStep(hosts[0], "give all hosts the same tokens", shared))
    for front in fronts:
        for name, (source, mark) in secrets.items():
            if seen.file(front, f"secrets.{name}.id") != mark:
                steps.append(FleetStep(front, f"give {front} {name}", PutSecret(name, Path(source), mark)))
    steps += _images(wish, seen, wish.image, "engine", _answering(seen, wish.hosts))
    if wish.front_image != wish.image:
        steps += _images(wish, seen, wish.front_image, "front", fronts)
    else:
        steps += _images(wish, seen, wish.image, "engine", [host for host in fronts if host not in wish.hosts])
    if record and hosts:
        told = _record_number(record)
        steps.append(FleetStep(hosts[0], f"record release {told} as pending", Record(tuple(hosts), told, record)))
    return steps


def _images(wish: FleetWish, seen: Seen, image: str, kind: str, hosts: Sequence[str]) -> list[FleetStep]:
    """An image runs where it was made for: hosts of one architecture (and, built by us, of one base) share one."""
    alike: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        alike.setdefault(_made_for(wish, seen, image, kind, host), []).append(host)
    steps: list[FleetStep] = []
    for key, each in alike.items():
        there = [host for host, facts in seen.fleet.items() if not isinstance(facts, Missing)]
        kin = [host for host in there if _made_for(wish, seen, image, kind, host) == key]
        steps += _shared(wish, seen, (image, kind), each, kin)
    return steps


def _made_for(wish: FleetWish, seen: Seen, image: str, kind: str, host: str) -> tuple[str, str]:
    facts = seen.facts(host)
    is_built = image.startswith(f"dsctl-{kind}:")
    return str(facts.arch), device_base(wish, facts, kind) if is_built else ""


def _shared(
    wish: FleetWish, seen: Seen, wanted: tuple[str, str], hosts: Sequence[str], alike: Sequence[str]
) -> list[FleetStep]:  # fmt: skip
    """From a host that has it; else built (our own names) or pulled on the first host, then from there."""
    image, kind = wanted
    known = {host: _image(seen, host, image) for host in hosts}
    holders = [host for host in alike if _image(seen, host, image)]
    wanting = [host for host in hosts if not known[host]]
    if not wanting:
        return _equalise(seen, image, hosts, known)
    steps: list[FleetStep] = []
    source, image_id = (holders[0], _image(seen, holders[0], image)) if holders else ("", "")
    if not source:
        source = wanting.pop(0)
        if image.startswith(f"dsctl-{kind}:"):
            build = BuildImage(image, kind, device_base(wish, seen.facts(source), kind))
            steps.append(FleetStep(source, f"build {image} on {source}", build))
        else:
            steps.append(FleetStep(source, f"pull {image} on {source}", PullImage(image)))
    steps += [
        FleetStep(host, f"bring {image} from {source} to {host}", FetchImage(image, image_id, source))
        for host in wanting
    ]
    return steps + _equalise(seen, image, hosts, known)


def _equalise(seen: Seen, image: str, hosts: Sequence[str], known: Mapping[str, str]) -> list[FleetStep]:
    """Hosts where the same name means another image than on the first host that has it."""
    have = [host for host in hosts if known[host]]
    return [
        FleetStep(
            host, f"bring {image} from {have[0]} to {host}", FetchImage(image, known[have[0]], have[0]),
            "it has another image under that name",
        )
        for host in have[1:]
        if known[host] != known[have[0]]
    ]  # fmt: skip


def _image(seen: Seen, host: str, image: str) -> str:
    facts = seen.fleet.get(host, Missing("not asked"))
    if isinstance(facts, Missing) or not isinstance(facts.docker, Docker):
        return ""
    return facts.docker.images.get(image, "")


def settle_fronts(wish: FleetWish, seen: Seen, fronts: Sequence[str]) -> list[FleetStep]:
    """Gateway and nginx of every front host, one host after the other."""
    addresses = {host: str(seen.facts(host).address) for host in fronts if isinstance(seen.facts(host).address, str)}
    steps: list[FleetStep] = []
    for host, address in addresses.items():
        steps += _settle(seen, host, gateway_container(wish, seen.facts(host), address), "gateway")
        conf = render("nginx/nginx.conf.j2", nginx_values(wish, host, addresses))
        mark = short_hash(conf)
        container = nginx_container(wish, seen.facts(host), address)
        started = _settle(seen, host, container, "nginx")
        is_loaded = seen.file(host, "nginx/loaded") == mark
        if not is_loaded:
            if seen.file(host, "nginx/nginx.conf") != conf:
                steps.append(FleetStep(host, f"write nginx.conf on {host}", PutFile("nginx/nginx.conf", conf)))
            if not started:
                steps.append(FleetStep(host, f"let nginx on {host} read it", ReloadFront(container.name)))
        steps += started
        if not is_loaded:
            steps.append(FleetStep(host, f"note what nginx on {host} has read", PutFile("nginx/loaded", mark)))
    return steps


def _settle(seen: Seen, host: str, spec: ContainerSpec, role: str) -> list[FleetStep]:
    found = seen.part(host, role)
    is_same = isinstance(found, Container) and found.label("spec") == spec.label("spec")
    if isinstance(found, Container) and is_same and found.is_running:
        return []
    why = ""
    if isinstance(found, Container):
        why = f"it is {found.state}" if is_same else "its settings changed"
    return [
        FleetStep(host, f"start {role} on {host}:{spec.label('port')}", RunContainer(spec), why),
        FleetStep(host, f"wait for {role} on {host}", AwaitReady(spec.name, spec.health.command[-1], FRONT_READY_S)),
    ]


def wrap_up(
    wish: FleetWish, seen: Seen, fronts: Sequence[str], steps: list[FleetStep], good: str
) -> list[FleetStep]:  # fmt: skip
    """Ends a change with a client's own completion and the record of success; nothing to end when nothing is done."""
    if not steps and not (good and _is_unrecorded(seen, good)):
        return []
    if wish.replicas:
        for host in fronts:
            gate = Gate("", wish.front.port, wish.front.is_tls, wish.model)
            steps.append(FleetStep(host, f"send a completion through {host} as a client would", gate))
    hosts = tuple(_answering(seen, [*wish.hosts, *wish.fronts]))
    if good and hosts:
        told = _record_number(good)
        steps.append(FleetStep(hosts[0], f"record release {told} as good", Record(hosts, told, good)))
        kept = [each.number for each in seen.releases if each.outcome == "good" and each.number != told]
        last = min([*kept[-(KEPT_RELEASES - 1) :], told])
        for each in seen.releases:
            if each.number < last and each.number not in _restorable(seen, good):
                steps += [
                    FleetStep(host, f"forget release {each.number} on {host}", DropRelease(each.number))
                    for host in hosts
                    if not isinstance(seen.file(host, f"releases/{each.number}.json"), Missing)
                ]
    return steps


def _restorable(seen: Seen, good: str) -> list[int]:
    """The newest good releases with other settings than these and than one another: scaling often loses no way back."""
    told = [json.loads(good)["settings"]]
    found: list[int] = []
    for each in reversed(seen.releases):
        if each.outcome == "good" and dict(each.settings) not in told:
            told.append(dict(each.settings))
            found.append(each.number)
    return found[: KEPT_RELEASES - 1]


def _is_unrecorded(seen: Seen, good: str) -> bool:
    return all(each.text != good for each in seen.releases)


def _record_number(record: str) -> int:
    return int(json.loads(record)["number"])


def _answering(seen: Seen, hosts: Sequence[str]) -> list[str]:
    return [host for host in dict.fromkeys(hosts) if not isinstance(seen.fleet.get(host, Missing("")), Missing)]
