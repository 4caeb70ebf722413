"""The verbs that change a fleet: observe, plan, ask about hazards, lock, plan again, apply; a second run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dsctl.base.errors import GateError, UsageError
from dsctl.base.fleetstep import DropImage, EndContainer, FleetStep, ForgetProject, Mark, Record
from dsctl.base.missing import Missing
from dsctl.base.units import seconds
from dsctl.base.voice import Voice
from dsctl.facts.host import Docker, HostFacts
from dsctl.flows.fleet import Fleet, check_hold, check_reached, observe
from dsctl.flows.fleetapply import apply_fleet
from dsctl.flows.fleetcanary import check_none, plan_abort, plan_promote
from dsctl.flows.fleetplan import Planned, last_good, plan_deploy, plan_release, settings_of, vacating
from dsctl.planning.fleetseen import Release, Seen
from dsctl.reach.fleetdoor import FleetDoor

Planner = Callable[[Seen], Planned]
STOP_S = 30


def deploy(fleet: Fleet, voice: Voice) -> Planned:
    """Makes the fleet what the settings say; a gate that fails rolls back once to the last good release."""
    return _carry(fleet, voice, "deploy", lambda seen: plan_deploy(fleet, seen))


def decide_canary(fleet: Fleet, voice: Voice, *, is_promoted: bool) -> Planned:
    """canary promote and canary abort."""
    planner = plan_promote if is_promoted else plan_abort
    return _carry(fleet, voice, "canary", lambda seen: planner(fleet, seen))


def scale(fleet: Fleet, replicas: int, voice: Voice) -> Planned:
    """The release that serves, with another number of copies."""
    if replicas == 0:
        voice.confirm("scaling to 0 leaves nothing that answers", "--yes")
    return _carry(fleet, voice, "scale", lambda seen: plan_scale(fleet, seen, replicas))


def plan_scale(fleet: Fleet, seen: Seen, replicas: int) -> Planned:
    """The steps of `scale`."""
    check_reached(fleet, seen)
    check_hold(seen)
    check_none(seen)
    return plan_release(fleet, seen, last_good(seen), replicas)


def rollback(fleet: Fleet, number: int | None, voice: Voice) -> Planned:
    """Back to a kept release, by default the good one before the one that serves."""
    return _carry(fleet, voice, "rollback", lambda seen: plan_rollback(fleet, seen, number))


def plan_rollback(fleet: Fleet, seen: Seen, number: int | None) -> Planned:
    """The steps of `rollback`."""
    check_reached(fleet, seen)
    check_hold(seen)
    present = last_good(seen)
    good = [each for each in seen.releases if each.outcome == "good"]
    others = [each for each in good if each.settings != present.settings]  # scaling alone is nothing to go back from
    wanted = [each for each in good if each.number == number] if number else others[-1:]
    if not wanted:
        known = ", ".join(str(each.number) for each in good)
        what = f"release {number}" if number else "an earlier release"
        raise UsageError(f"{what} of {seen.project} is not kept", hint=f"kept are: {known}")
    return plan_release(fleet, seen, wanted[0], present.replicas)


def drain(fleet: Fleet, host: str, voice: Voice) -> Planned:
    """Cordons a host and moves its copies elsewhere."""
    emptied = vacating(fleet, host)
    cordon(fleet, host, "drained", voice)
    return _carry(fleet, voice, "drain", lambda seen: _plan_vacated(emptied, seen))


def _plan_vacated(emptied: Fleet, seen: Seen) -> Planned:
    check_reached(emptied, seen)
    check_hold(seen)
    check_none(seen)
    good = last_good(seen)
    settled = replace(emptied, settings=settings_of(good, emptied.settings.source))
    return plan_deploy(settled, seen, replicas=good.replicas)


def cordon(fleet: Fleet, host: str, why: str | None, voice: Voice) -> list[FleetStep]:
    """Marks a host so that it gets no new copies (`why`), or takes the mark away (None)."""
    if host not in (*fleet.hosts, *fleet.fronts):
        raise UsageError(f"{host} is not a host of {fleet.project}", hint=f"one of: {', '.join(fleet.hosts)}")
    seen = observe(replace(fleet, hosts=(host,), fronts=()))
    check_reached(fleet, seen)
    before = seen.file(host, "cordon")
    if (why is None) == isinstance(before, Missing) and why in (None, before):
        return []
    title = f"give {host} no new copies" if why is not None else f"let {host} take copies again"
    steps = [FleetStep(host, title, Mark("cordon", why))]
    with fleet.door(seen).held("cordon"):
        apply_fleet(steps, fleet.door(seen), voice, "cordon")
    return steps


def hold(fleet: Fleet, message: str | None, voice: Voice) -> list[FleetStep]:
    """Puts a hold on every host that answers, which stops everybody's changes; None takes it away."""
    seen = observe(fleet)
    door = fleet.door(seen)
    title = "put a hold on" if message is not None else "take the hold from"
    steps = [FleetStep(name, f"{title} {fleet.project}", Mark("hold", message)) for name in door.hosts]
    with door.held("lock"):
        apply_fleet(steps, door, voice, "lock")
    return steps


def plan_down(fleet: Fleet, seen: Seen, *, purge: bool) -> list[FleetStep]:
    """The front first, so that nothing new comes in; then every copy; with `purge` also all state and secrets."""
    check_reached(fleet, seen)
    order = {"nginx": 0, "gateway": 1}
    found: list[tuple[int, FleetStep]] = []
    for host, facts in seen.fleet.items():
        for each in facts.ours(fleet.project) if isinstance(facts, HostFacts) else ():
            ended = EndContainer(each.name, each.id, STOP_S)
            found.append((order.get(each.label("role"), 2), FleetStep(host, f"stop {each.name} on {host}", ended)))
    steps = [step for _, step in sorted(found, key=lambda pair: pair[0])]
    if purge:
        homes = [h for h, f in seen.fleet.items() if isinstance(f, HostFacts) and _has_home(f, fleet.project)]
        steps += [FleetStep(h, f"remove all state and secrets from {h}", ForgetProject()) for h in homes]
    return steps


def down(fleet: Fleet, voice: Voice, *, purge: bool) -> Sequence[FleetStep]:
    """Ends everything on every host; asks first."""
    steps = plan_down(fleet, observe(fleet), purge=purge)
    if not steps:
        return []
    also = " and removes its state" if purge else ""
    voice.confirm(f"this ends {fleet.project} on {len(fleet.hosts)} hosts{also}", "--yes")
    seen = observe(fleet)
    door = fleet.door(seen)
    with door.held("down"):
        steps = plan_down(fleet, observe(fleet), purge=purge)
        apply_fleet(steps, door, voice, "down")  # with --purge the last steps take the lock and the journal with them
    return steps


def plan_prune(fleet: Fleet, seen: Seen) -> list[FleetStep]:
    """Containers kept only for their logs, and images of ours that neither a container nor a kept release uses."""
    check_reached(fleet, seen)
    used = {each.image for each in seen.releases}
    steps: list[FleetStep] = []
    rows = set[str]() if isinstance(seen.table, Missing) else {row.name for row in seen.table.rows}
    for host, facts in seen.fleet.items():
        if isinstance(facts, Missing):
            continue
        running = {each.image for each in facts.ours(fleet.project) if each.is_running}
        for each in facts.ours(fleet.project):
            if each.label("role") == "replica" and not each.is_running and each.label("replica") not in rows:
                ended = EndContainer(each.name, each.id, STOP_S)
                steps.append(FleetStep(host, f"remove {each.name}, which has ended, from {host}", ended))
        for name, image in facts.docker.images.items() if isinstance(facts.docker, Docker) else ():
            if name.startswith(("dsctl-engine:", "dsctl-front:")) and name not in used and image not in running:
                steps.append(FleetStep(host, f"remove the image {name} from {host}", DropImage(name)))
    return steps


def prune(fleet: Fleet, voice: Voice) -> Sequence[FleetStep]:
    """Carries that out."""
    seen = observe(fleet)
    steps = plan_prune(fleet, seen)
    if steps:
        door = fleet.door(seen)
        with door.held("prune"):
            apply_fleet(steps, door, voice, "prune")
    return steps


def _carry(fleet: Fleet, voice: Voice, verb: str, planner: Planner) -> Planned:
    """Look, plan, ask, lock, look and plan again (somebody may have been faster), apply."""
    seen = observe(fleet)
    planned = planner(seen)
    for warning in planned.warnings:
        voice.say(f"note: {warning}")
    if not planned.steps:
        return planned
    for hazard in planned.hazards:
        voice.confirm(hazard, "--yes")
    expected = planned.eta_s.reason if isinstance(planned.eta_s, Missing) else f"about {seconds(planned.eta_s)}"
    voice.say(f"{len(planned.steps)} steps on {len(fleet.hosts)} hosts; how long: {expected}")
    door = fleet.door(seen)
    with door.held(verb):
        seen = observe(fleet)
        planned = planner(seen)
        try:
            apply_fleet(planned.steps, door, voice, verb)
        except GateError as error:
            _roll_back_once(fleet, door, voice, planned, error)
            raise
    return planned


def _roll_back_once(fleet: Fleet, door: FleetDoor, voice: Voice, planned: Planned, error: GateError) -> None:
    """The release is marked bad; copies that were changed go back to the last good one. That is tried once."""
    hosts = tuple(door.hosts)
    number = planned.release
    record = FleetStep(hosts[0], f"record release {number} as bad", Record(hosts, number, planned.bad))
    said: str
    try:
        seen = observe(fleet)
        good = seen.last("good")
        if isinstance(good, Missing) or good.number == number:
            said = "outcome: there is no earlier release to go back to; what serves was left alone"
        else:
            back = plan_release(fleet, seen, good, good.replicas)
            voice.say(f"rolling back to release {good.number}: {len(back.steps)} steps")
            apply_fleet([record, *back.steps], door, voice, "rollback")
            said = f"outcome: rolled back to what release {good.number} was, with {good.replicas} copies"
    except GateError as second:
        said = f"outcome: rolling back failed too ({second.message}); it is not tried again"
    error.why = "\n".join(part for part in (error.why, said) if part)


def _has_home(facts: HostFacts, project: str) -> bool:
    return not isinstance(facts.projects, Missing) and project in facts.projects


__all__ = ["Release", "cordon", "deploy", "down", "drain", "hold", "prune", "rollback", "scale"]
