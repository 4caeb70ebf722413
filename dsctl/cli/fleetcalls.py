"""What the verbs do where hosts are named: open the fleet, call one flow, show its result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dsctl.base.errors import UsageError
from dsctl.cli import fleetshow, show

if TYPE_CHECKING:
    from dsctl.config.schema import Scalar
    from dsctl.flows.fleet import Fleet

    Overrides = dict[str, Scalar]


def is_fleet(config: Path | None, hosts: str) -> bool:
    """Whether hosts are named, here or in dsctl.yaml."""
    from dsctl.flows.fleet import names_hosts

    return names_hosts(config, hosts)


def opened(
    config: Path | None, hosts: str, *, mock: bool = False, skips: bool = False, overrides: Overrides | None = None
) -> Fleet:  # fmt: skip
    """The fleet."""
    from dsctl.flows.fleet import open_fleet

    overrides = {**({"engine.kind": "oracle"} if mock else {}), **(overrides or {})}
    return open_fleet(config, overrides, hosts=hosts, skips_unreachable=skips)


def canary_overrides(share: str, *, holds: bool) -> Overrides:
    """`--canary 10%` and `--canary-hold` as settings; UsageError for what is no percentage."""
    if not share:
        return {"rollout.canary_hold": True} if holds else {}
    try:
        percent = float(share.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 50:
        raise UsageError(f"--canary {share}: a percentage from 0 to 50", hint="--canary 10%")
    return {"rollout.canary": percent, **({"rollout.canary_hold": True} if holds else {})}


def plan(fleet: Fleet, *, json: bool) -> None:
    """plan, and deploy --dry-run."""
    from dsctl.flows.fleetplan import plan_deploy

    raise typer.Exit(fleetshow.plan(plan_deploy(fleet), json=json))


def deploy(fleet: Fleet, voice: show.Terminal, *, json: bool, events: Path | None = None) -> None:
    """deploy."""
    from dsctl.flows import fleetevents, fleetverbs

    with fleetevents.events(events, voice, "deploy", fleet.project) as heard:
        done = fleetverbs.deploy(fleet, heard)
    fleetshow.done(done, json=json)


def scale(fleet: Fleet, replicas: int, voice: show.Terminal, *, is_dry: bool, json: bool) -> None:
    """scale N."""
    from dsctl.flows import fleetverbs
    from dsctl.flows.fleet import observe

    if is_dry:
        raise typer.Exit(fleetshow.plan(fleetverbs.plan_scale(fleet, observe(fleet), replicas), json=json))
    fleetshow.done(fleetverbs.scale(fleet, replicas, voice), json=json)


def rollback(fleet: Fleet, release: int | None, voice: show.Terminal, *, is_dry: bool, json: bool) -> None:
    """rollback [RELEASE]."""
    from dsctl.flows import fleetverbs
    from dsctl.flows.fleet import observe

    if is_dry:
        raise typer.Exit(fleetshow.plan(fleetverbs.plan_rollback(fleet, observe(fleet), release), json=json))
    fleetshow.done(fleetverbs.rollback(fleet, release, voice), json=json)


def canary(fleet: Fleet, voice: show.Terminal, *, is_promoted: bool, is_dry: bool, json: bool) -> None:
    """canary promote, canary abort."""
    from dsctl.flows import fleetcanary, fleetverbs
    from dsctl.flows.fleet import observe

    if is_dry:
        planner = fleetcanary.plan_promote if is_promoted else fleetcanary.plan_abort
        raise typer.Exit(fleetshow.plan(planner(fleet, observe(fleet)), json=json))
    fleetshow.done(fleetverbs.decide_canary(fleet, voice, is_promoted=is_promoted), json=json)


def status(fleet: Fleet, *, json: bool) -> None:
    """status."""
    from dsctl.flows import fleetstatus

    found = fleetstatus.status(fleet)
    fleetshow.status(found, json=json)
    raise typer.Exit(found.exit_code)


def down(fleet: Fleet, voice: show.Terminal, *, purge: bool, is_dry: bool, json: bool) -> None:
    """down."""
    from dsctl.flows import fleetverbs
    from dsctl.flows.fleet import observe

    if is_dry:
        raise typer.Exit(fleetshow.steps(fleetverbs.plan_down(fleet, observe(fleet), purge=purge), json=json))
    ended = fleetverbs.down(fleet, voice, purge=purge)
    if json:
        show.json({"changed": bool(ended)})
    else:
        show.result("everything has ended" if ended else "nothing was running")


def logs(fleet: Fleet, name: str | None, lines: int, *, follow: bool) -> None:
    """logs."""
    from dsctl.flows import fleetstatus

    with show.stopping_quietly():
        for line in fleetstatus.logs(fleet, name, lines, follow=follow):
            show.log_line(line)


def prune(fleet: Fleet, voice: show.Terminal, *, is_dry: bool, json: bool) -> None:
    """prune."""
    from dsctl.flows import fleetverbs
    from dsctl.flows.fleet import observe

    if is_dry:
        raise typer.Exit(fleetshow.steps(fleetverbs.plan_prune(fleet, observe(fleet)), json=json))
    fleetshow.steps(fleetverbs.prune(fleet, voice), json=json)
