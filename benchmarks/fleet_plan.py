"""How long it takes to plan for many hosts: 1 000 hosts with 8 cards each, from facts in memory; prints the seconds.

python -m benchmarks.fleet_plan [HOSTS]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from dsctl.base.fleetstep import EditTable, RunContainer
from dsctl.facts.host import Container, HostFacts
from dsctl.planning.eta import eta
from dsctl.planning.fleetroll import FleetPlan, Terms, plan_fleet
from dsctl.planning.fleetseen import see
from dsctl.planning.fleetwish import FleetWish
from tests.dsctl.planning import fleets


def main() -> int:
    """First deploy, copies as they shall be, and a change of every copy (8 cards a copy, then 1 card a copy)."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    names = tuple(f"gpu{n:04d}" for n in range(count))
    bare = {name: fleets.gpu_host(name, number, 8) for number, name in enumerate(names)}
    for gpus in (8, 1):
        wish = fleets.wish(names, device="cuda", max_per_host=0, gpus=gpus, replicas=count * 8 // gpus)
        first = measure(f"first deploy, {gpus} cards a copy", wish, bare)
        settled = carried_out(bare, wish, first)
        measure(f"copies as they shall be, {gpus} cards a copy", wish, settled)
        measure(f"change of every copy, {gpus} cards a copy", replace(wish, flags={"max_num_seqs": 8}), settled)
    return 0


def measure(what: str, wish: FleetWish, fleet: dict[str, HostFacts]) -> FleetPlan:
    """One plan with its estimate, timed."""
    began = time.perf_counter()
    seen = see(wish.project, fleet)
    plan = plan_fleet(wish, seen, Terms(1))
    eta(plan.steps, {"load m": (60.0,)})
    took = time.perf_counter() - began
    print(f"{what}: {len(wish.hosts)} hosts, {wish.replicas} copies, {len(plan.steps)} steps: {took:.2f} s")
    return plan


def carried_out(fleet: dict[str, HostFacts], wish: FleetWish, plan: FleetPlan) -> dict[str, HostFacts]:
    """The facts after a first deploy, without a machine: what its steps say."""
    containers: dict[str, list[Container]] = {name: [] for name in fleet}
    rows: dict[str, dict[str, object]] = {}
    for step in plan.steps:
        if isinstance(step.action, RunContainer):
            spec = step.action.spec
            made = Container(spec.name, f"id-{spec.name}", fleets.IMAGE_ID, "running", dict(spec.labels), "healthy")
            containers[step.host].append(made)
        if isinstance(step.action, EditTable):
            rows |= {r.name: {"name": r.name, "url": r.url, "spec_hash": r.spec_hash} for r in step.action.rows}
    table = fleets.table(list(rows.values()))
    after: dict[str, HostFacts] = {}
    for name, facts in fleet.items():
        files = {"schema": "1", "secrets.id": "x", **({"gateway/replicas.json": table} if name in wish.fronts else {})}
        after[name] = fleets.with_state(replace(facts, containers=tuple(containers[name])), wish.project, files)
    return after


if __name__ == "__main__":
    sys.exit(main())
