"""The control path's files and routes: generations, gate, drain, tables that change under load."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from benchmarks.rig import ADMIN, Rig, until
from tests.faults.clients import Answer, ask, ask_all, assert_exact, body_of, line_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway before two oracles."""
    options = ["--ttft-ms", "5", "--itl-ms", "5"]
    with Rig(tmp_path_factory.mktemp("control"), replica_options=options) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """Both replicas running, active and healthy, under a new generation."""
    for name, program in shared.replicas.items():
        if not program.is_running:
            program.end()
            program.start()
            program.url()
        shared.states[name] = "active"
    shared.publish(generation=shared.status()["generation"] + 1)
    shared.wait_generation(shared.generation)
    shared.wait_healthy()
    return shared


def served_by(rig: Rig, answer: Answer) -> list[str]:
    """Names of the replicas that had a request."""
    return [name for name, _ in line_of(rig, answer.ledger_name).attempts]


def test_gated_replica_serves_the_gate_only(rig: Rig) -> None:
    """A gated replica gets no traffic; a gate request with the admin's token goes to it and nowhere else."""
    rig.publish(r2="gated")
    rig.wait_generation(rig.generation)
    assert {served_by(rig, answer)[0] for answer in ask_all(rig, range(6))} == {"r1"}
    body = body_of(7)
    assert ask(rig, body, headers={"x-dsctl-gate": "r2"}).status == 403
    assert ask(rig, body, headers={"x-dsctl-gate": "r2", "x-dsctl-admin": "wrong"}).status == 403
    assert ask(rig, body, headers={"x-dsctl-gate": "r9", "x-dsctl-admin": ADMIN}).status == 404
    answer = ask(rig, body, headers={"x-dsctl-gate": "r2", "x-dsctl-admin": ADMIN})
    assert_exact(answer, body)
    assert served_by(rig, answer) == ["r2"]
    rig.replicas["r2"].end()
    until("r2 is dead", lambda: rig.health()["r2"] == "dead")
    assert ask(rig, body, headers={"x-dsctl-gate": "r2", "x-dsctl-admin": ADMIN}).status == 503


def test_drain_lets_streams_end(rig: Rig) -> None:
    """A drained replica gets nothing new, keeps what it has, and shows when it is empty."""
    body = body_of(1, tokens=300, ignore_eos=True)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(rig, body))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until("all run", lambda: rig.status()["inflight"] == 4)
    drained = rig.client.post(f"{rig.url}/-/drain/r1", headers={"authorization": f"Bearer {ADMIN}"}).json()
    assert (drained["state"], drained["inflight"]) == ("draining", 2)
    assert {served_by(rig, answer)[0] for answer in ask_all(rig, range(4))} == {"r2"}
    for thread in threads:
        thread.join()
    assert all(answer.is_done for answer in answers)
    row = next(row for row in rig.status()["replicas"] if row["name"] == "r1")
    assert (row["state"], row["inflight"]) == ("draining", 0)


def test_older_and_broken_tables_are_refused(rig: Rig) -> None:
    """A lower generation, an unreadable file or a bad row changes nothing and is counted."""
    current = rig.generation
    texts = (
        json.dumps({"generation": current - 1, "replicas": []}),
        '{"generation": 99',
        '{"generation": 99, "replicas": [{"name": "x", "url": "ftp://x"}]}',
    )
    for text in texts:
        refused = rig.metrics()["dsctl_config_refused_total"]
        staged = rig.folder / "replicas.json.new"
        staged.write_text(text)
        staged.replace(rig.folder / "replicas.json")
        until("it is refused", lambda n=refused: rig.metrics()["dsctl_config_refused_total"] == n + 1)
    assert rig.metrics()["dsctl_config_generation"] == current
    assert {row["state"] for row in rig.status()["replicas"]} == {"active"}
    ask_all(rig, range(2))


def test_removed_replica_finishes_its_streams(rig: Rig) -> None:
    """Streams on a replica that leaves the table end whole; new requests go elsewhere."""
    body = body_of(1, tokens=200, ignore_eos=True)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(rig, body))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until("all run", lambda: rig.status()["inflight"] == 2)
    rig.publish(r1="absent")
    rig.wait_generation(rig.generation)
    assert {served_by(rig, answer)[0] for answer in ask_all(rig, range(2))} == {"r2"}
    for thread in threads:
        thread.join()
    assert all(answer.is_done for answer in answers)
