"""Deploy, scale and down on a machine in memory: they converge, never leave fewer serving than needed, and go back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dsctl.base.errors import ConfigError, ConfirmationError, DsctlError, GateError, PreflightError, UsageError
from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.step import AwaitReady, Drain, Gate, SetTable, StartProgram, Step, StopProgram
from dsctl.flows import deploy as flow
from dsctl.flows import difference
from dsctl.flows.apply import apply
from dsctl.flows.down import down, plan_down
from dsctl.flows.status import status
from dsctl.planning.rollout import retreat
from dsctl.reach.dry import Dry
from dsctl.reach.fake import Fake
from tests.dsctl.flows.machines import Recorder, project, settings


def test_a_first_deploy_gates_every_replica(tmp_path: Path) -> None:
    """Each replica is listed gated, waited for, asked a completion through the front, and only then active."""
    here, fake = project(tmp_path)
    done = flow.deploy(here, Recorder())
    assert fake.can_serve() == ["r1", "r2"]
    assert done.url == "http://127.0.0.1:8000"
    kinds = [type(step.action) for step in done.steps]
    assert kinds.index(Gate) > kinds.index(AwaitReady) > kinds.index(StartProgram)
    tables = [n for n, kind in enumerate(kinds) if kind is SetTable]
    states = [[row.state for row in done.steps[n].action.rows] for n in tables]  # type: ignore[union-attr]
    assert states == [["gated", "gated"], ["active", "gated"], ["active", "active"]]
    assert [kinds[n - 1] for n in tables[1:]] == [Gate, Gate]
    assert isinstance(done.steps[-2].action, Gate)
    assert done.steps[-2].action.name == ""


def test_nothing_changed_is_nothing_to_do(tmp_path: Path) -> None:
    """A second deploy has no steps, and neither has a plan or a diff."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    acted = len(fake.acted)
    assert flow.deploy(here, Recorder()).steps == []
    assert difference.show(here, flow.plan_deploy(here)) == ""
    assert len(fake.acted) == acted


def test_a_plan_touches_nothing(tmp_path: Path) -> None:
    """Planning works through a door that refuses to act, and shows the very steps that deploy takes."""
    here, fake = project(tmp_path)
    shown = flow.plan_deploy(type(here)(here.settings, here.places, Dry(fake), here.python)).steps
    assert not fake.acted
    assert flow.deploy(here, Recorder()).steps == shown


def test_a_change_rolls_one_replica_at_a_time(tmp_path: Path) -> None:
    """With the default strategy as many replicas serve at every moment as before, and all are new afterwards."""
    _, fake = project(tmp_path)
    flow.deploy(project(tmp_path, fake)[0], Recorder())
    fake.serving.clear()
    done = flow.deploy(project(tmp_path, fake, engine__max_num_seqs=8)[0], Recorder())
    assert min(len(names) for names in fake.serving) == 2
    assert len(fake.can_serve()) == 2
    started = [step.action for step in done.steps if isinstance(step.action, StartProgram)]
    assert all("--max-num-seqs 8" in action.text for action in started)
    assert len(started) == 2


def test_an_interrupted_change_goes_on_with_what_it_started(tmp_path: Path) -> None:
    """A new replica that was still loading at the interruption takes its predecessor's place; none is started twice."""
    _, fake = project(tmp_path)
    flow.deploy(project(tmp_path, fake)[0], Recorder())
    changed = project(tmp_path, fake, engine__max_num_seqs=8)[0]
    steps = flow.plan_deploy(changed).steps
    until = next(n for n, step in enumerate(steps) if isinstance(step.action, AwaitReady))
    apply(steps[:until], fake, Recorder())
    loading = fake.pids["r3"]
    fake.serving.clear()
    done = flow.deploy(changed, Recorder())
    assert fake.pids["r3"] == loading
    assert len([step for step in done.steps if isinstance(step.action, StartProgram)]) == 1
    assert {len(names) for names in fake.serving} == {2, 3}
    assert len(fake.can_serve()) == 2


def test_drain_first_keeps_names_and_needs_no_extra_copy(tmp_path: Path) -> None:
    """With drain-first never more than the wished number runs, one fewer serves meanwhile, and names stay."""
    _, fake = project(tmp_path)
    flow.deploy(project(tmp_path, fake, replicas=3)[0], Recorder())
    fake.serving.clear()
    flow.deploy(project(tmp_path, fake, replicas=3, rollout__strategy="drain-first", dtype="x")[0], Recorder())
    changed = project(tmp_path, fake, replicas=3, rollout__strategy="drain-first", engine__block_size=32)[0]
    flow.deploy(changed, Recorder())
    assert fake.can_serve() == ["r1", "r2", "r3"]
    assert min(len(names) for names in fake.serving) == 2


def test_what_drains_gets_nothing_new_before_it_ends(tmp_path: Path) -> None:
    """A replica is draining in the table, then waited for, then stopped."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    done = flow.scale(here, 1, Recorder())
    kinds = [type(step.action) for step in done.steps][:3]
    assert kinds == [SetTable, Drain, StopProgram]
    assert fake.can_serve() == ["r1"]


def test_scale_is_remembered_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    """Without `replicas` in dsctl.yaml a deploy keeps the scaled number; with it the file wins."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    flow.scale(here, 4, Recorder())
    assert flow.deploy(here, Recorder()).steps == []
    assert len(fake.can_serve()) == 4
    flow.deploy(project(tmp_path, fake, replicas=2)[0], Recorder())
    assert len(fake.can_serve()) == 2


def test_scale_changes_nothing_else(tmp_path: Path) -> None:
    """A changed dsctl.yaml waits for deploy; scale adds copies of what is deployed."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    done = flow.scale(project(tmp_path, fake, engine__max_num_seqs=8)[0], 3, Recorder())
    assert [step.action.name for step in done.steps if isinstance(step.action, StartProgram)] == ["r3"]


def test_scale_to_nothing_needs_a_yes(tmp_path: Path) -> None:
    """0 is a hazard; anything else is not; before a deploy there is nothing to scale."""
    here, fake = project(tmp_path)
    with pytest.raises(UsageError, match="nothing is deployed"):
        flow.scale(here, 2, Recorder())
    flow.deploy(here, Recorder())
    with pytest.raises(ConfirmationError):
        flow.scale(here, 0, Recorder())
    flow.scale(here, 0, Recorder(agrees=True))
    assert fake.can_serve() == []
    assert status(here).exit_code == Exit.FAILED
    flow.scale(here, 2, Recorder())
    assert len(fake.can_serve()) == 2


def test_a_failing_replacement_leaves_the_old_state(tmp_path: Path) -> None:
    """A new replica that never becomes ready is taken away; the old ones serve on; the next deploy tries again."""
    _, fake = project(tmp_path)
    flow.deploy(project(tmp_path, fake)[0], Recorder())
    fake.refusing = {"r3"}
    changed = project(tmp_path, fake, engine__max_num_seqs=8)[0]
    with pytest.raises(GateError) as caught:
        flow.deploy(changed, Recorder())
    assert "r1, r2 still serve" in caught.value.why
    assert fake.can_serve() == ["r1", "r2"]
    assert "r3" not in fake.pids
    fake.refusing = set()
    flow.deploy(changed, Recorder())
    assert flow.deploy(changed, Recorder()).steps == []


def test_a_failing_first_deploy_leaves_no_crash_loop(tmp_path: Path) -> None:
    """Without anything to go back to, the replicas end, and the error says that nothing serves."""
    here, fake = project(tmp_path)
    fake.refusing = {"r1", "r2"}
    with pytest.raises(GateError, match="r1") as caught:
        flow.deploy(here, Recorder())
    assert "nothing serves yet" in caught.value.why
    assert set(fake.pids) == {"gateway"}


def test_a_lost_supervisor_is_replaced_without_orphans(tmp_path: Path) -> None:
    """After kill -9 of supervisord a deploy ends with the same number serving, all of them supervised."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    fake.lose_supervisor()
    assert "supervisord is not running" in status(here).troubles[0]
    assert status(here).exit_code == Exit.PARTIAL
    fake.serving.clear()
    flow.deploy(here, Recorder())
    assert min(len(names) for names in fake.serving) == 2
    assert not fake.lost
    assert status(here).exit_code == Exit.OK
    assert flow.deploy(here, Recorder()).steps == []


def test_a_machine_that_was_switched_off_comes_back(tmp_path: Path) -> None:
    """With state but no process at all, a deploy starts everything on the remembered ports."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    ports = dict(fake.ports)
    fake.lose_supervisor()
    fake.pids.clear()
    fake.lost.clear()
    assert status(here).exit_code == Exit.FAILED
    flow.deploy(here, Recorder())
    assert len(fake.can_serve()) == 2
    assert fake.ports["gateway"] == ports["gateway"]


@pytest.mark.parametrize("condition", ["FATAL", "EXITED", "BACKOFF"])
def test_a_replica_that_was_given_up_is_started_anew(tmp_path: Path, condition: str) -> None:
    """A replica that does not serve is shown with its last words, and replaced without touching the other."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    fake.lose_program("r1", condition)
    fake.files[here.places.log("r1")] = "ready\nerror: tensor a is cut\n\n"
    found = status(here)
    assert found.exit_code == Exit.PARTIAL
    assert found.troubles[0].startswith("r1 is ")
    assert found.troubles[0].endswith("ready\n    error: tensor a is cut")
    kept = fake.pids["r2"]
    flow.deploy(here, Recorder())
    assert fake.can_serve() == ["r1", "r2"]
    assert fake.pids["r2"] == kept


def test_a_taken_port_is_avoided_or_refused(tmp_path: Path) -> None:
    """A port of our choosing moves on when somebody has it; one the user chose is refused."""
    here, fake = project(tmp_path)
    fake.taken_ports = {8000}
    assert flow.deploy(here, Recorder()).url != "http://127.0.0.1:8000"
    other, busy = project(tmp_path / "other", gateway__port=9000)
    busy.taken_ports = {9000}
    with pytest.raises(PreflightError):
        flow.deploy(other, Recorder())
    assert not busy.acted


def test_a_new_address_restarts_the_gateway_only(tmp_path: Path) -> None:
    """A changed port replaces the gateway and no replica."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    done = flow.deploy(project(tmp_path, fake, gateway__port=9100)[0], Recorder())
    assert [step.action.name for step in done.steps if isinstance(step.action, StartProgram)] == ["gateway"]
    assert done.url == "http://127.0.0.1:9100"


def test_listening_to_everybody_needs_keys(tmp_path: Path) -> None:
    """A front beyond this machine without keys is refused before anything changes; no_auth or a key allows it."""
    here, fake = project(tmp_path, gateway__host="0.0.0.0")
    with pytest.raises(PreflightError, match="no keys"):
        flow.deploy(here, Recorder())
    assert not fake.acted
    fake.files[here.places.keys] = '{"keys": [{"id": "a", "sha256": "b"}]}'
    assert flow.deploy(here, Recorder()).url == "http://127.0.0.1:8000"
    flow.deploy(project(tmp_path / "x", gateway__host="0.0.0.0", gateway__no_auth=True)[0], Recorder())


def test_a_missing_checkpoint_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is not there is named before anything changes."""
    here, fake = project(tmp_path, model="nowhere")
    monkeypatch.setattr(fake, "listing", lambda _directory: Missing("it is not a directory"))
    with pytest.raises(ConfigError, match="nowhere"):
        flow.deploy(here, Recorder())
    assert not fake.acted


def test_down_ends_everything_and_asks_first(tmp_path: Path) -> None:
    """down needs a yes, leaves no process, and a second one has nothing to do."""
    here, fake = project(tmp_path)
    assert down(here, Recorder(), purge=False) == []
    flow.deploy(here, Recorder())
    with pytest.raises(ConfirmationError):
        down(here, Recorder(), purge=False)
    down(here, Recorder(agrees=True), purge=False)
    assert not fake.pids
    assert down(here, Recorder(), purge=False) == []
    assert status(here).exit_code == Exit.FAILED
    flow.deploy(here, Recorder())
    fake.lose_supervisor()
    down(here, Recorder(agrees=True), purge=True)
    assert not fake.pids
    assert plan_down(here, purge=False) == []


def test_a_release_of_a_newer_dsctl_is_refused(tmp_path: Path) -> None:
    """State this dsctl cannot know is left alone."""
    here, fake = project(tmp_path)
    flow.deploy(here, Recorder())
    written = fake.files[here.places.release]
    fake.files[here.places.release] = written.replace('"schema_version": 1', '"schema_version": 2')
    with pytest.raises(PreflightError, match="newer"):
        flow.deploy(here, Recorder())


def test_going_back_is_only_for_what_is_new(tmp_path: Path) -> None:
    """A retreat names the replicas that were started and never active, and nothing when there are none."""
    here, _ = project(tmp_path)
    steps = list(flow.plan_deploy(here).steps)
    gates = [n for n, step in enumerate(steps) if isinstance(step.action, Gate)]
    assert [s.action.name for s in retreat(steps[: gates[1] + 1], "") if isinstance(s.action, StopProgram)] == ["r2"]
    assert retreat(steps, "") == []
    assert retreat(steps[:1], "") == []


@st.composite
def _histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    losses = ["lose supervisor", "lose r1", "lose gateway", "reboot"]
    event = st.sampled_from(["deploy", "change", "scale", "cut", *losses])
    return draw(st.lists(st.tuples(event, st.integers(0, 12)), max_size=6))


@hypothesis_settings(max_examples=60, deadline=None)
@given(_histories(), st.sampled_from(["surge", "drain-first"]))
def test_whatever_happened_a_deploy_converges(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]], strategy: str
) -> None:
    """After any history of cut deploys, scalings and losses, one deploy reaches the wish and a second does nothing."""
    home = tmp_path_factory.mktemp("home")
    here, fake = project(home, rollout__strategy=strategy)
    version = 16
    for event, number in history:
        here, _ = project(home, fake, rollout__strategy=strategy, engine__block_size=version)
        if event == "change":
            version = number + 1
        _happen(event, number, here, fake)
    here, _ = project(home, fake, rollout__strategy=strategy, engine__block_size=version, replicas=2)
    flow.deploy(here, Recorder())
    assert len(fake.can_serve()) == 2
    assert not fake.lost
    assert set(fake.pids) == {"gateway", *(row.name for row in fake.rows())}
    assert flow.deploy(here, Recorder()).steps == []


def _happen(event: str, number: int, here: object, fake: Fake) -> None:
    from dsctl.flows.project import Project

    assert isinstance(here, Project)
    if event == "deploy":
        flow.deploy(here, Recorder())
    elif event == "cut":
        _cut_deploy(here, fake, number)
    elif event == "scale" and fake.files.get(here.places.release):
        flow.scale(here, number % 4 + 1, Recorder())
    elif event == "lose supervisor":
        fake.lose_supervisor()
    elif event == "reboot":
        fake.lose_supervisor()
        fake.pids.clear()
        fake.lost.clear()
    elif event.startswith("lose ") and event.removeprefix("lose ") in fake.conditions:
        fake.lose_program(event.removeprefix("lose "), "FATAL")


def _cut_deploy(here: object, fake: Fake, number: int) -> None:
    """The first `number` steps of a deploy, as when dsctl is killed."""
    from dsctl.flows.project import Project

    assert isinstance(here, Project)
    steps: list[Step] = list(flow.plan_deploy(here).steps)[:number]
    try:
        apply(steps, fake, Recorder())
    except DsctlError as error:
        raise AssertionError(error.lines()) from error


def test_settings_helper_is_honest() -> None:
    """The tests' settings are the defaults but for what a test changes."""
    assert settings(replicas=3).integer("replicas") == 3
