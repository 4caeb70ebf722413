"""Plans for fleets, from tables of wish, facts and steps, and properties that every plan has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dsctl.base.errors import PreflightError
from dsctl.base.fleetstep import AwaitReady, BuildImage, EditTable, EndContainer, FetchImage, RunContainer
from dsctl.base.missing import Missing
from dsctl.facts.host import Docker, HostFacts
from dsctl.planning.eta import eta
from dsctl.planning.fleetground import ground_steps
from dsctl.planning.fleetroll import FleetPlan, Terms, plan_fleet
from dsctl.planning.fleetseen import Seen, newer_states, see
from dsctl.planning.fleetwish import FleetWish
from dsctl.planning.placement import Pool, explain, rooms
from tests.dsctl.planning import fleets

CASES = sorted((Path(__file__).parent / "fleet_cases").glob("*.yaml"))


def build(case: dict[str, Any]) -> tuple[FleetWish, Seen]:
    """The wish and the facts that a case tells in a few words."""
    named: dict[str, Any] = case["hosts"]
    wish = fleets.wish(tuple(case.get("wished_hosts", named)), **case.get("wish", {}))
    fleet: dict[str, HostFacts | Missing] = {}
    rows: list[dict[str, Any]] = []
    for order, (name, told) in enumerate(named.items()):
        told = told or {}
        if "unreachable" in told:
            fleet[name] = Missing(told["unreachable"])
            continue
        facts = fleets.gpu_host(name, order, told["cards"]) if told.get("cards") else fleets.host(name, order)
        facts = replace(facts, **told.get("facts", {}))
        containers = [_container(wish, facts, each, rows) for each in told.get("copies", [])]
        fleet[name] = replace(facts, containers=tuple(containers))
    files = {"schema": "1", "secrets.id": "x"} if case.get("settled") else {}
    for name, facts in fleet.items():
        if isinstance(facts, HostFacts) and files:
            extra = {"gateway/replicas.json": fleets.table(rows)} if name in wish.fronts else {}
            cordon = {"cordon": named[name]["cordon"]} if (named[name] or {}).get("cordon") else {}
            fleet[name] = fleets.with_state(facts, wish.project, {**files, **extra, **cordon})
    return wish, see(wish.project, fleet)


def _container(wish: FleetWish, facts: HostFacts, told: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    spec = told.get("spec", wish.spec_hash)
    if told.get("row", "active"):
        url = f"http://{facts.address}:{told['port']}"
        rows.append({"name": told["name"], "url": url, "spec_hash": spec, "state": told.get("row", "active")})
    gpus = tuple(f"GPU-{facts.name}-{n}" for n in told.get("gpus", []))
    return fleets.running(wish, facts, told["name"], told["port"], spec_hash=spec, gpus=gpus,
                          state=told.get("state", "running"))  # fmt: skip


def told(plan: FleetPlan) -> list[str]:
    """The steps about copies as the cases write them; those about front hosts and homes are tested elsewhere."""
    lines = [f"{step.host}: {step.title}" for step in plan.steps]
    wanted = (" r", "copies", "bring", "as gated")
    return [x for x in lines if any(word in x for word in wanted) and "release" not in x and "nginx" not in x]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases(path: Path) -> None:
    """The plan of every case has exactly the steps that are written beside it, or is refused for the written reason."""
    case = yaml.safe_load(path.read_text())
    wish, seen = build(case)
    if "refused" in case:
        with pytest.raises(PreflightError) as caught:
            plan_fleet(wish, seen, Terms(2))
        said = "\n".join(caught.value.lines())
        assert [part for part in case["refused"] if part not in said] == [], said
        return
    plan = plan_fleet(wish, seen, Terms(2))
    assert told(plan) == case["steps"]
    assert list(plan.hazards) == case.get("hazards", [])


def test_every_case_is_read() -> None:
    """The tables are there."""
    assert len(CASES) >= 10


def test_a_settled_fleet_needs_nothing() -> None:
    """A plan made of what the steps of the first plan lead to is empty."""
    wish = fleets.wish(("a", "b"))
    first = plan_fleet(wish, see("prod", {"a": fleets.host("a", 1), "b": fleets.host("b", 2)}), Terms(1))
    fleet = carried_out(wish, {"a": fleets.host("a", 1), "b": fleets.host("b", 2)}, first)
    assert plan_fleet(wish, see("prod", fleet), Terms(2)).steps == ()


def carried_out(wish: FleetWish, fleet: dict[str, HostFacts], plan: FleetPlan) -> dict[str, HostFacts]:
    """The fleet after the plan, by its steps' own words."""
    from dsctl.reach.fakehost import FakeFleet

    fake = FakeFleet(fleet)
    for step in plan.steps:
        fake.carry_out(wish.project, step)
    return fake.facts()


def test_placement_spreads_or_packs() -> None:
    """spread puts the next copy where fewest are; pack fills a host first; both end when there is no room."""
    wish = fleets.wish(("a", "b", "c"), max_per_host=2)
    seen = see("prod", {name: fleets.host(name, n) for n, name in enumerate("abc")})
    spread, pack = Pool(rooms(wish, seen), "host"), Pool(rooms(wish, seen), "pack")
    assert [pool_take(spread) for _ in range(7)] == ["a", "b", "c", "a", "b", "c", ""]
    assert [pool_take(pack) for _ in range(7)] == ["a", "a", "b", "b", "c", "c", ""]


def pool_take(pool: Pool) -> str:
    """The host of the next slot; empty when there is none."""
    slots = pool.take()
    return slots[0].host if slots else ""


def test_a_copy_of_two_hosts_takes_two() -> None:
    """With nodes 2 every copy gets slots on two different hosts, and none is left half placed."""
    wish = fleets.wish(("a", "b", "c"), max_per_host=1)
    pool = Pool(rooms(wish, see("prod", {name: fleets.host(name, n) for n, name in enumerate("abc")})), "host")
    assert [slot.host for slot in pool.take(2)] == ["a", "b"]
    assert pool.take(2) == ()
    assert pool_take(pool) == "c"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"docker": Missing("permission denied")}, "permission denied"),
        ({"containers": Missing("timed out")}, "timed out"),
        ({"address": Missing("no route")}, "no route"),
        ({"skew": 600.0}, "clock is +600 s off"),
        ({"available": 100 << 20}, "of memory are free"),
    ],
)
def test_filters_say_why(changes: dict[str, Any], said: str) -> None:
    """A host that takes no copy says the reason."""
    seen = see("prod", {"a": fleets.host("a", 1, **changes)})
    assert said in "\n".join(explain(rooms(fleets.wish(("a",)), seen)))


def test_cards_are_never_shared() -> None:
    """Cards of another project's copy, of a stranger's process, or in MIG mode are no slots, each with its reason."""
    wish = fleets.wish(("a",), device="cuda", max_per_host=0)
    facts = fleets.gpu_host("a", 1, 4)
    assert not isinstance(facts.gpus, Missing)
    gpus = list(facts.gpus)
    gpus[1], gpus[2] = replace(gpus[1], is_mig=True), replace(gpus[2], pids=(77,))
    other = replace(fleets.wish(("a",)), project="other")
    taken = fleets.running(other, facts, "r1", 21000, gpus=(gpus[0].uuid,))
    seen = see("prod", {"a": replace(facts, gpus=tuple(gpus), containers=(taken,))})
    [room] = rooms(wish, seen)
    assert [slot.gpus for slot in room.free] == [("GPU-a-3",)]
    [room] = rooms(replace(wish, gpus=2), seen)
    assert room.free == ()
    assert "card 1 is split" in "; ".join(room.reasons)
    assert "process 77" in "; ".join(room.reasons)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_every_change_keeps_enough_serving(hosts: int, per_host: int, had: int, wanted: int, changes: bool) -> None:
    """In every plan the number that may serve never falls below the lesser of old and new less one; all end current."""
    had, wanted = min(had, hosts * per_host), min(wanted, hosts * per_host)
    names = tuple(f"h{n}" for n in range(hosts))
    wish = fleets.wish(names, max_per_host=per_host, replicas=had)
    fleet = {name: fleets.host(name, n) for n, name in enumerate(names)}
    fleet = carried_out(wish, fleet, plan_fleet(wish, see("prod", fleet), Terms(1)))
    new = replace(wish, replicas=wanted, flags={"max_num_seqs": 8} if changes else {})
    plan = plan_fleet(new, see("prod", fleet), Terms(2))
    serving = {f"r{n}" for n in range(1, had + 1)}
    fewest = len(serving)
    for step in plan.steps:
        if isinstance(step.action, EditTable):
            serving |= {row.name for row in step.action.rows if row.state == "active"}
            serving -= {row.name for row in step.action.rows if row.state != "active"} | set(step.action.drop)
        fewest = min(fewest, len(serving))
    assert len(serving) == wanted
    assert fewest >= max(0, min(had, wanted) - 1)
    after = see("prod", carried_out(new, fleet, plan))
    assert {each.spec_hash for each in after.copies.values()} <= {new.spec_hash}
    assert plan_fleet(new, after, Terms(3)).steps == ()


def test_a_slot_is_free_before_it_is_taken() -> None:
    """In a drain-first change the old container ends before a new one gets its cards."""
    wish = fleets.wish(("a",), device="cuda", max_per_host=0, replicas=2)
    fleet = {"a": fleets.gpu_host("a", 1, 2)}
    fleet = carried_out(wish, fleet, plan_fleet(wish, see("prod", fleet), Terms(1)))
    plan = plan_fleet(replace(wish, flags={"max_num_seqs": 8}), see("prod", fleet), Terms(2))
    held = {uuid: f"r{n + 1}" for n, uuid in enumerate(("GPU-a-0", "GPU-a-1"))}
    for step in plan.steps:
        if isinstance(step.action, EndContainer):
            held = {uuid: name for uuid, name in held.items() if not step.action.name.endswith(name)}
        if isinstance(step.action, RunContainer) and step.replica:
            assert not set(step.action.spec.gpus) & set(held)
            held |= dict.fromkeys(step.action.spec.gpus, step.replica)
    assert len(held) == 2


def test_state_of_a_newer_dsctl_is_seen() -> None:
    """Labels or releases with a higher schema version name their host."""
    wish = fleets.wish(("a", "b"))
    container = fleets.running(wish, fleets.host("a"), "r1", 21000)
    newer = replace(container, labels={**container.labels, "dsctl.schema": "2"})
    later = fleets.with_state(fleets.host("b"), "prod", {"releases/3.json": '{"schema_version": 9}'})
    fleet = {"a": replace(fleets.host("a"), containers=(newer,)), "b": later, "c": fleets.host("c")}
    assert newer_states(fleet, "prod") == ["a", "b"]


def test_eta_counts_loads_together_once() -> None:
    """Copies that load at the same time cost one load; nothing remembered is said, not guessed."""
    wish = fleets.wish(("a", "b"), replicas=8)
    plan = plan_fleet(wish, see("prod", {"a": fleets.host("a", 1), "b": fleets.host("b", 2)}), Terms(1))
    assert isinstance(eta(plan.steps, {}), Missing)
    waits = sum(isinstance(step.action, AwaitReady) for step in plan.steps)
    kinds = {type(step.action).__name__: (0.1,) for step in plan.steps}
    found = eta(plan.steps, {"load m": (100.0, 100.0), **kinds})
    assert isinstance(found, float)
    assert waits == 8 + 4
    assert 100 <= found <= 100 + 0.1 * len(plan.steps)


def test_images_stay_with_their_architecture() -> None:
    """One build for each architecture and base, on its first host; the others of its kind get it from there."""
    plain = fleets.host("a")
    assert isinstance(plain.docker, Docker)
    empty = replace(plain.docker, images={})
    fleet: dict[str, HostFacts | Missing] = {
        "a": fleets.host("a", 1, docker=empty), "b": fleets.host("b", 2, docker=empty, arch="aarch64"),
        "c": fleets.host("c", 3, docker=empty), "d": fleets.host("d", 4, docker=empty, arch="aarch64"),
        "e": fleets.gpu_host("e", 5, 1, docker=empty),
    }  # fmt: skip
    name = "dsctl-engine:1"
    wished = fleets.wish(tuple(fleet), image=name, front_image=name, device="auto", cpu_base="cpu", cuda_base="cuda")
    steps = ground_steps(wished, see("prod", fleet), "", {})
    built = [(step.host, step.action.base) for step in steps if isinstance(step.action, BuildImage)]
    assert built == [("a", "cpu"), ("b", "cpu"), ("e", "cuda")]
    fetched = {step.host: step.action.source for step in steps if isinstance(step.action, FetchImage)}
    assert fetched == {"c": "a", "d": "b"}
