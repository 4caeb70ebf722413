"""What every verb on a fleet starts from: the hosts it speaks of, the doors to them, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsctl.base.errors import DsctlError, PreflightError, UsageError
from dsctl.base.missing import Missing
from dsctl.config import inventoryfile
from dsctl.config.inventory import Entry, Inventory
from dsctl.config.schema import Scalar
from dsctl.config.settings import Settings, load
from dsctl.facts.host import HostFacts
from dsctl.planning.fleetseen import Seen, newer_states, see
from dsctl.planning.fleetwish import FleetWish, fleet_wish
from dsctl.reach.fleetdoor import Context, FleetDoor
from dsctl.reach.hostdoor import HostDoor

if TYPE_CHECKING:
    from dsctl.reach.registry import Registry

AT_ONCE = 30
Opener = Callable[[Entry], HostDoor]


@dataclass(frozen=True, slots=True)
class Fleet:
    """One project on hosts."""

    settings: Settings
    inventory: Inventory
    hosts: tuple[str, ...]  # that hold copies, in the inventory's order
    fronts: tuple[str, ...]
    open_door: Opener
    doors: dict[str, HostDoor]  # opened so far
    context: Context | None = None
    skips_unreachable: bool = False
    pause_s: float = 0.5
    registry: Registry | None = None  # None: images travel as archives

    @property
    def project(self) -> str:
        """Its name."""
        return self.settings.project

    def door(self, seen: Seen) -> FleetDoor:
        """The door to all hosts that answered."""
        there = {name: self.doors[name] for name, facts in seen.fleet.items() if isinstance(facts, HostFacts)}
        return FleetDoor(there, self.context, self.pause_s, self.registry)

    def with_settings(self, settings: Settings) -> Fleet:
        """The same hosts with other settings; hosts and fronts follow what these name."""
        return replace(self, settings=settings, hosts=_chosen(settings, self.inventory),
                       fronts=_fronts(settings, self.inventory))  # fmt: skip


def names_hosts(config: Path | None, hosts: str = "") -> bool:
    """Whether this is a fleet: hosts are named on the command line or in dsctl.yaml."""
    return bool(hosts or load(config).text("placement.hosts"))


def open_fleet(
    config: Path | None, overrides: Mapping[str, Scalar] | None = None, *, hosts: str = "",
    skips_unreachable: bool = False,
) -> Fleet:  # fmt: skip
    """The fleet that dsctl.yaml and the inventory name; `hosts` wins over placement.hosts. Nothing is reached yet."""
    from dsctl.flows.doors import context, opener, registry

    given = {**(overrides or {}), **({"placement.hosts": hosts} if hosts else {})}
    settings = load(config, given)
    inventory = inventoryfile.load(_file(settings), _base(settings))
    if not settings.text("placement.hosts"):
        raise UsageError("no hosts are named", hint="--hosts a100-nodes, or placement.hosts in dsctl.yaml")
    chosen, fronts = _chosen(settings, inventory), _fronts(settings, inventory)
    return Fleet(settings, inventory, chosen, fronts, opener(settings), {}, context(settings), skips_unreachable,
                 registry=registry())  # fmt: skip


def _base(settings: Settings) -> Path:
    return settings.source.parent if settings.source else Path.cwd()


def _file(settings: Settings) -> Path | None:
    named = settings.text("inventory.file")
    return _base(settings) / Path(named).expanduser() if named else None


def _chosen(settings: Settings, inventory: Inventory) -> tuple[str, ...]:
    pattern = settings.text("placement.hosts")
    return tuple(entry.name for entry in inventory.select(pattern, "placement.hosts", _base(settings)))


def _fronts(settings: Settings, inventory: Inventory) -> tuple[str, ...]:
    pattern = settings.text("front.hosts")
    if not pattern:
        return _chosen(settings, inventory)[:2]
    return tuple(entry.name for entry in inventory.select(pattern, "front.hosts", _base(settings)))


def observe(fleet: Fleet) -> Seen:
    """Every host that is named or that the last releases name, asked at the same time."""
    seen = _ask(fleet, list(dict.fromkeys([*fleet.hosts, *fleet.fronts])), {})
    before = {name for each in seen.releases for name in str(each.settings.get("fleet.hosts", "")).split(",") if name}
    more = sorted(before - set(seen.fleet))
    seen = _ask(fleet, more, seen.fleet) if more else seen
    if newer := newer_states(seen.fleet, fleet.project):
        raise PreflightError(f"{', '.join(newer)}: the state was written by a newer dsctl", hint="upgrade this dsctl")
    return seen


def _ask(fleet: Fleet, names: Sequence[str], known: Mapping[str, HostFacts | Missing]) -> Seen:
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        asked = {name: pool.submit(_facts, fleet, name) for name in names}
        return see(fleet.project, {**known, **{name: each.result() for name, each in asked.items()}})


def _facts(fleet: Fleet, name: str) -> HostFacts | Missing:
    try:
        if name not in fleet.doors:
            fleet.doors[name] = fleet.open_door(fleet.inventory.hosts.get(name, Entry(name)))
        return fleet.doors[name].facts()
    except DsctlError as error:
        return Missing("\n".join(part for part in (error.message, error.why) if part))


def check_reached(fleet: Fleet, seen: Seen) -> None:
    """PreflightError when a host does not answer, unless that was allowed: nothing is ever decided for such a host."""
    lost = [(name, facts.reason) for name, facts in seen.fleet.items() if isinstance(facts, Missing)]
    if lost and (not fleet.skips_unreachable or len(lost) == len(seen.fleet)):
        raise PreflightError(
            f"{len(lost)} of {len(seen.fleet)} hosts cannot be reached: {', '.join(name for name, _ in lost)}",
            why="\n".join(f"{name}: {reason}" for name, reason in lost),
            hint="dsctl hosts check, or --skip-unreachable to leave them as they are",
        )


def check_hold(seen: Seen) -> None:
    """LockHeldError when somebody put a hold on the project."""
    from dsctl.base.errors import LockHeldError

    for host in seen.fleet:
        text = seen.file(host, "hold")
        if not isinstance(text, Missing):
            raise LockHeldError(
                f"{seen.project} is on hold: {text.strip()}", hint="dsctl lock break, once it may go on"
            )


def wish_of(fleet: Fleet, seen: Seen, replicas: int) -> FleetWish:
    """What the settings ask for; the checkpoint is where `model` says on every host."""
    settings = fleet.settings
    model_dir = "" if settings.text("engine.kind") == "oracle" else settings.text("model")
    if model_dir and not model_dir.startswith("/"):
        raise PreflightError(
            f"model: {model_dir!r} is no directory that every host has",
            hint="model: /data/models/NAME, the absolute path under which each host of the fleet holds the checkpoint",
        )
    return fleet_wish(settings, fleet.hosts, fleet.fronts, replicas=replicas, model_dir=model_dir)
