"""A gateway before two oracles, shared by the tests of a module; every test finds both healthy and without faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from benchmarks.rig import ADMIN, Rig, until
from dsctl.oracle.ledger import EngineLine, GatewayLine, check_engines, read_lines
from tests.faults.clients import ask, body_of

PACE = ["--ttft-ms", "20", "--itl-ms", "10"]


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The rig of a module; at the end no engine may have worked for nobody."""
    folder = tmp_path_factory.mktemp("rig")
    with Rig(folder, replica_options=PACE) as rig:
        yield rig

        def findings() -> list[str]:
            living = {program.pid for program in rig.replicas.values() if program.is_running}
            engines = read_lines(folder / "engine.jsonl", EngineLine)
            return check_engines(engines, read_lines(folder / "gateway.jsonl", GatewayLine), living)

        with contextlib.suppress(TimeoutError):  # the gateway writes its lines a moment later
            until("the ledgers agree", lambda: not findings(), 20.0)
        assert findings() == []


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The rig, whole again before and after each test."""
    heal(shared_rig)
    yield shared_rig
    heal(shared_rig)


def heal(rig: Rig) -> None:
    """Both replicas active, running, healthy and without faults; nothing in flight."""
    for name, program in rig.replicas.items():
        if not program.is_running:
            rig.restart(name)
        rig.fault(name)
    if set(rig.states.values()) != {"active"} or any(row["state"] != "active" for row in rig.status()["replicas"]):
        rig.publish(**dict.fromkeys(rig.states, "active"))
        rig.wait_generation(rig.generation)
    rig.wait_healthy()
    for name in rig.replicas:  # a right answer each, so that no wrong ones are held against them
        headers = {"x-dsctl-gate": name, "x-dsctl-admin": ADMIN}
        until(f"{name} answers", lambda h=headers: ask(rig, body_of(1, tokens=1), headers=h).is_done)
