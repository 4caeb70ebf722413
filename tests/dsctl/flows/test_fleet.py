"""The verbs on a fleet in memory: nothing served is lost, cuts are completed, the unreachable is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dsctl.base.errors import ConfirmationError, DsctlError, GateError, LockHeldError, PreflightError, UsageError
from dsctl.base.missing import Missing
from dsctl.config.inventory import Entry, Inventory
from dsctl.config.schema import Scalar
from dsctl.facts.host import HostFacts
from dsctl.flows import fleetkeys
from dsctl.flows import fleetverbs as verbs
from dsctl.flows.fleet import Fleet, observe
from dsctl.flows.fleetplan import plan_deploy
from dsctl.flows.fleetstatus import status
from dsctl.reach.fakehost import CutError, FakeFleet
from dsctl.reach.hostdoor import FencedError, HostDoor
from tests.dsctl.flows.machines import Recorder, settings
from tests.dsctl.planning import fleets

BASE: dict[str, Scalar] = {
    "project": "prod", "engine__kind": "oracle", "engine__device": "cpu", "image__name": fleets.IMAGE,
    "placement__hosts": "all", "placement__max_per_host": 3, "rollout__soak_s": 0.0, "gateway__no_auth": True,
}  # fmt: skip
HOSTS = ("a", "b", "c")


def machines(names: tuple[str, ...] = HOSTS, lost: tuple[str, ...] = ()) -> FakeFleet:
    """Hosts in memory; `lost` cannot be reached."""
    return FakeFleet({
        name: Missing("connection timed out") if name in lost else fleets.host(name, n) for n, name in enumerate(names)
    })  # fmt: skip


def fleet(fake: FakeFleet, **changes: Scalar) -> Fleet:
    """The project on these hosts."""
    names = (*fake.machines, *fake.lost)
    chosen = settings(**{**BASE, **changes})
    inventory = Inventory({name: Entry(name) for name in names}, {}, Path("hosts.yaml"))

    def open_door(entry: Entry) -> HostDoor:
        if entry.name in fake.lost:
            raise DsctlError(f"{entry.name}: connection timed out")
        return fake.doors("prod")[entry.name]

    return Fleet(chosen, inventory, names, names[:2], open_door, {}, lambda kind, base: f"{kind}{base}".encode(),
                 pause_s=0.0)  # fmt: skip


def current(fake: FakeFleet, project: Fleet) -> set[str]:
    """The copies that run what the settings say."""
    wished = plan_deploy(project)
    assert wished.steps == ()
    return fake.can_serve("prod")


def test_a_first_deploy_serves_and_a_second_does_nothing() -> None:
    """All copies are spread, gated and active; a second deploy has no steps and the fleet says it is well."""
    fake = machines()
    done = verbs.deploy(fleet(fake, replicas=6), Recorder())
    assert (done.release, done.url) == (1, "http://10.0.0.1:8080")
    assert len(current(fake, fleet(fake, replicas=6))) == 6
    spread = [sum(c.label("role") == "replica" for c in m.containers.values()) for m in fake.machines.values()]
    assert spread == [2, 2, 2]
    assert verbs.deploy(fleet(fake, replicas=6), Recorder()).steps == ()
    found = status(fleet(fake, replicas=6))
    assert (found.exit_code, found.troubles) == (0, [])


def test_a_plan_changes_nothing() -> None:
    """Planning makes no change on any host, and deploy then takes exactly these steps."""
    fake = machines()
    planned = plan_deploy(fleet(fake))
    assert fake.changes == 0
    assert verbs.deploy(fleet(fake), Recorder()).steps == planned.steps


def test_a_change_rolls_and_both_releases_are_kept() -> None:
    """While a changed setting reaches every copy as many serve as before; rollback brings the earlier one back."""
    fake = machines()
    old, new = fleet(fake, replicas=4), fleet(fake, replicas=4, engine__max_num_seqs=8)
    verbs.deploy(old, Recorder())
    fake.serving.clear()
    assert verbs.deploy(new, Recorder()).release == 2
    assert min(fake.serving) == 4
    assert len(current(fake, new)) == 4
    verbs.rollback(new, None, Recorder())
    assert len(current(fake, old)) == 4
    assert min(fake.serving) == 4
    with pytest.raises(UsageError, match="release 9 of prod is not kept"):
        verbs.rollback(new, 9, Recorder())


def test_scaling_often_loses_no_way_back() -> None:
    """Scaling makes releases too, but the settings before the present ones stay within reach of `rollback`."""
    fake = machines()
    old, new = fleet(fake), fleet(fake, engine__max_num_seqs=8)
    verbs.deploy(old, Recorder())
    verbs.deploy(new, Recorder())
    for number in (3, 2, 3, 2):
        verbs.scale(new, number, Recorder())
    assert 1 in [each.number for each in observe(new).releases]
    verbs.rollback(new, None, Recorder())
    assert len(current(fake, old)) == 2


def test_three_good_releases_are_kept() -> None:
    """The fourth good release makes the first one go, on every host."""
    fake = machines()
    for number in range(1, 6):
        verbs.deploy(fleet(fake, engine__max_num_seqs=number), Recorder())
    kept = [each.number for each in observe(fleet(fake)).releases]
    assert kept == [3, 4, 5]
    files = fake.machines["c"].files
    assert sorted(path for path in files if "releases/" in path) == [f"prod/releases/{n}.json" for n in kept]


def test_scale_up_and_down_keeps_the_configuration() -> None:
    """6 → 9 → 2 with the release that serves, whatever dsctl.yaml says meanwhile."""
    fake = machines()
    verbs.deploy(fleet(fake, replicas=6), Recorder())
    edited = fleet(fake, replicas=6, engine__max_num_seqs=8)
    verbs.scale(edited, 9, Recorder())
    assert len(fake.can_serve("prod")) == 9
    verbs.scale(edited, 2, Recorder())
    assert len(fake.can_serve("prod")) == 2
    assert len({each.spec_hash for each in observe(edited).copies.values()}) == 1
    with pytest.raises(PreflightError, match="room for 9"):
        verbs.scale(edited, 10, Recorder())
    with pytest.raises(ConfirmationError):
        verbs.scale(edited, 0, Recorder())


def test_a_copy_that_fails_its_gate_rolls_back_once() -> None:
    """What served still serves the old configuration; the failed container is kept for its log; the release is bad."""
    fake = machines()
    old, new = fleet(fake, replicas=3), fleet(fake, replicas=3, engine__max_num_seqs=8)
    verbs.deploy(old, Recorder())
    fake.refusing = {"r4"}
    fake.serving.clear()
    with pytest.raises(GateError) as caught:
        verbs.deploy(new, Recorder())
    assert "rolled back to what release 1 was" in caught.value.why
    assert min(fake.serving) == 3
    assert {each.outcome for each in observe(old).releases if each.number == 2} == {"bad"}
    fake.refusing = set()
    assert verbs.deploy(new, Recorder()).release == 4
    assert len(current(fake, new)) == 3


def test_a_first_deploy_that_fails_says_what_is_left() -> None:
    """With nothing to go back to nothing serves, and the error says so."""
    fake = machines()
    fake.refusing = {"r1"}
    with pytest.raises(GateError) as caught:
        verbs.deploy(fleet(fake), Recorder())
    assert "no earlier release" in caught.value.why
    assert fake.can_serve("prod") == set()


def test_a_host_that_cannot_be_reached_is_never_acted_on() -> None:
    """Refused by default with the reason; with leave, everything else proceeds and its copies count as there."""
    fake = machines()
    verbs.deploy(fleet(fake, replicas=6), Recorder())
    fake.lost["c"] = Missing("connection timed out")
    before = dict(fake.machines["c"].containers)
    changed = fleet(fake, replicas=6, engine__max_num_seqs=8)
    with pytest.raises(PreflightError, match="1 of 3 hosts cannot be reached: c"):
        verbs.deploy(changed, Recorder())
    verbs.deploy(replace(changed, skips_unreachable=True), Recorder())
    assert fake.machines["c"].containers == before
    del fake.lost["c"]
    verbs.deploy(changed, Recorder())
    assert len(current(fake, changed)) == 6


def test_the_lock_keeps_others_out_and_fences_a_late_one() -> None:
    """A second operator is told who works; one whose lock was taken over can change nothing any more."""
    fake = machines()
    first, second = fleet(fake), fleet(fake)
    door = first.door(observe(first))
    with door.held("deploy"), pytest.raises(LockHeldError):
        verbs.deploy(second, Recorder())
    with door.held("deploy"):
        for machine in fake.machines.values():
            machine.holders["prod"] = object()  # taken over after a silence
        with pytest.raises(FencedError):
            door.hosts["a"].write("x", "y")


def test_a_hold_stops_everybody() -> None:
    """A hold is refused to every change until it is taken away."""
    fake = machines()
    verbs.hold(fleet(fake), "moving racks", Recorder())
    with pytest.raises(LockHeldError, match="moving racks"):
        verbs.deploy(fleet(fake), Recorder())
    verbs.hold(fleet(fake), None, Recorder())
    verbs.deploy(fleet(fake), Recorder())


def test_drain_empties_a_host_and_cordon_keeps_it_empty() -> None:
    """Copies move with as many serving as before; later copies go elsewhere until the host is uncordoned."""
    fake = machines()
    project = fleet(fake, replicas=3)
    verbs.deploy(project, Recorder())
    fake.serving.clear()
    assert verbs.drain(project, "b", Recorder()).release == 1
    assert min(fake.serving) == 3
    assert not [c for c in fake.machines["b"].containers.values() if c.label("role") == "replica"]
    verbs.scale(project, 5, Recorder())
    assert not [c for c in fake.machines["b"].containers.values() if c.label("role") == "replica"]
    verbs.cordon(project, "b", None, Recorder())
    verbs.scale(project, 6, Recorder())
    assert [c for c in fake.machines["b"].containers.values() if c.label("role") == "replica"]
    with pytest.raises(UsageError, match="not a host"):
        verbs.drain(project, "z", Recorder())


def test_down_leaves_nothing_running_and_purge_no_state() -> None:
    """down asks; afterwards no container of the project is left; purge also takes all files, secrets included."""
    fake = machines()
    project = fleet(fake)
    verbs.deploy(project, Recorder())
    with pytest.raises(ConfirmationError):
        verbs.down(project, Recorder(), purge=False)
    verbs.down(project, Recorder(agrees=True), purge=False)
    assert all(not machine.containers for machine in fake.machines.values())
    verbs.deploy(project, Recorder())
    verbs.down(project, Recorder(agrees=True), purge=True)
    assert all(not machine.files for machine in fake.machines.values())


def test_prune_takes_what_nobody_uses() -> None:
    """Ended containers and images of ours that nothing refers to go; the serving image and strangers' stay."""
    fake = machines()
    project = fleet(fake)
    verbs.deploy(project, Recorder())
    for machine in fake.machines.values():
        machine.images |= {"dsctl-engine:old": "sha256:old", "postgres:16": "sha256:pg"}
    verbs.prune(project, Recorder())
    assert all(set(machine.images) == {fleets.IMAGE, "postgres:16"} for machine in fake.machines.values())
    assert len(current(fake, project)) == 2


def test_an_image_only_one_host_has_reaches_the_others() -> None:
    """It is streamed from the host that has it, and the copies run the same image everywhere."""
    fake = machines()
    for name in ("b", "c"):
        fake.machines[name].images.clear()
    verbs.deploy(fleet(fake, replicas=3), Recorder())
    assert {machine.images.get(fleets.IMAGE) for machine in fake.machines.values()} == {fleets.IMAGE_ID}


def test_an_image_that_is_nowhere_is_built_once() -> None:
    """Without image.name the image is built on the first host and brought to the others."""
    fake = machines()
    done = verbs.deploy(fleet(fake, image__name="", replicas=3), Recorder())
    titles = [step.title for step in done.steps]
    assert sum(title.startswith("build dsctl-engine") for title in titles) == 1
    assert sum(title.startswith("bring dsctl-engine") for title in titles) == 2


def test_secrets_are_the_same_everywhere_and_never_shown() -> None:
    """All hosts hold the same token; no step, journal, label, command or environment carries it."""
    fake = machines()
    done = verbs.deploy(fleet(fake, replicas=3), Recorder())
    tokens = {machine.files["prod/secrets/replica/replica.token"] for machine in fake.machines.values()}
    assert len(tokens) == 1
    [token] = tokens
    shown = repr(done.steps) + repr([m.containers for m in fake.machines.values()])
    shown += "".join(t for m in fake.machines.values() for p, t in m.files.items() if "/secrets/" not in p)
    assert token not in shown


def test_keys_are_wanted_before_clients_come_in() -> None:
    """Without keys and without no_auth nothing is touched."""
    fake = machines()
    with pytest.raises(PreflightError, match="without a key"):
        verbs.deploy(fleet(fake, gateway__no_auth=False), Recorder())
    assert fake.changes == 0


def test_keys_open_every_front_and_can_be_taken_back() -> None:
    """An issued key's hash, never the key, is on every front host; deploy then needs no no_auth; revoking ends it."""
    fake = machines()
    project = fleet(fake, gateway__no_auth=False)
    ident, key = fleetkeys.issue(project, "team")
    files = [fake.machines[name].files["prod/gateway/keys.json"] for name in ("a", "b")]
    assert files[0] == files[1]
    assert key.reveal() not in files[0]
    assert [entry["id"] for entry in fleetkeys.ls(project)] == [ident]
    verbs.deploy(project, Recorder())
    fleetkeys.revoke(project, ident)
    assert fleetkeys.ls(project) == []
    with pytest.raises(UsageError, match="no key"):
        fleetkeys.revoke(project, ident)


def test_scaling_pushes_no_release_out() -> None:
    """However often it is scaled, what was deployed before can still be brought back."""
    fake = machines()
    verbs.deploy(fleet(fake, replicas=2), Recorder())
    changed = fleet(fake, replicas=2, engine__max_num_seqs=8)
    verbs.deploy(changed, Recorder())
    for count in (3, 4, 5, 6, 2):
        assert verbs.scale(changed, count, Recorder()).release == 2
    assert [(each.number, each.replicas) for each in observe(changed).releases] == [(1, 2), (2, 2)]
    verbs.rollback(changed, None, Recorder())
    assert len(current(fake, fleet(fake, replicas=2))) == 2


def test_a_changed_front_is_rewritten_without_touching_copies() -> None:
    """A rate limit changes nginx.conf, which is read again; no container is restarted."""
    fake = machines()
    verbs.deploy(fleet(fake), Recorder())
    kinds = {type(s.action).__name__ for s in verbs.deploy(fleet(fake, front__rate_limit=5), Recorder()).steps}
    assert kinds == {"Record", "PutFile", "ReloadFront", "Gate"}


def _change(fake: FakeFleet, event: str, number: int) -> dict[str, Scalar]:
    """What an event changes: the machines at once, the settings by its return."""
    names = list(fake.machines)
    machine = fake.machines[names[number % len(names)]]
    if event == "die" and machine.containers:
        name = sorted(machine.containers)[number % len(machine.containers)]
        machine.containers[name] = replace(machine.containers[name], state="exited", health="")
    if event == "lose state":
        machine.files.clear()
    return {"engine__max_num_seqs": number + 1} if event == "change" else {}


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["change", "die", "lose state", "none"]), st.integers(0, 60)), max_size=5),
    st.integers(1, 7),
)
def test_whatever_was_cut_a_deploy_completes(history: list[tuple[str, int]], replicas: int) -> None:
    """After deploys cut at any change, dead containers, lost state: one deploy reaches the wish, a second rests."""
    fake = machines()
    changes: dict[str, Scalar] = {}
    for event, number in history:
        changes |= _change(fake, event, number)
        fake.cut_after, fake.changes = number, 0
        try:
            verbs.deploy(fleet(fake, replicas=replicas, **changes), Recorder(agrees=True))
        except CutError:
            for machine in fake.machines.values():
                machine.holders.clear()  # the lock of a killed program frees itself
        fake.cut_after = -1
    last = fleet(fake, replicas=replicas, **changes)
    verbs.deploy(last, Recorder(agrees=True))
    assert len(current(fake, last)) == replicas
    running = [c for m in fake.machines.values() for c in m.containers.values() if c.label("role") == "replica"]
    assert len(running) == replicas


def test_facts_are_those_of_the_machines() -> None:
    """The fake's facts hold what was written to it, so the tests above plan from what was done."""
    fake = machines(("a",))
    verbs.deploy(fleet(fake, replicas=1), Recorder())
    facts = fake.machines["a"].facts()
    assert isinstance(facts, HostFacts)
    assert not isinstance(facts.projects, Missing)
    assert "gateway/replicas.json" in facts.projects["prod"].files
