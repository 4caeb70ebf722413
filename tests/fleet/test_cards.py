"""Copies with graphics cards of their own, on a host whose cards are stand-ins that note who was given which."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place
from tests.fleet.operator import Operator, ask

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]


def on_cards(directory: Path, bed: Bed, project: str, place: Place) -> Operator:
    """A project on the host with cards, as a user who may use Docker and nothing else, past sshd's own forwarding."""
    made = Operator(directory, bed, project, random.randrange(8100, 9900), place, {bed.hosts[-1].name: "dock"})
    made.save(engine={"device": "cuda"}, inventory={"state_dir": "/home/dock/state"})
    return made


@pytest.fixture
def operator(loaded: Bed, place: Place, tmp_path: Path, project: str) -> Iterator[Operator]:
    """Such a project."""
    made = on_cards(tmp_path / "cards", loaded, project, place)
    yield made
    made.end()


def given(operator: Operator) -> dict[str, list[str]]:
    """The cards each running container was given at its latest start, as the runtime was asked for them."""
    running = operator.shell(0, "docker", "ps", "-q", "--no-trunc", "--filter", "label=dsctl.role=replica").split()
    lines = [json.loads(line) for line in operator.shell(0, "cat", "/opt/cards/given.jsonl").splitlines()]
    return {line["container"]: line["cards"] for line in lines if line["container"] in running}


def apart(operator: Operator, copies: int) -> list[str]:
    """The cards in use: as many as copies, none twice, and those that status and labels name."""
    used = [card for cards in given(operator).values() for card in cards]
    assert len(used) == len(set(used)) == copies
    return sorted(used)


def test_two_copies_never_share_a_card(operator: Operator, loaded: Bed, place: Place, tmp_path: Path) -> None:
    """First deploy, more copies, a second project, a full host, a change in place: every card has one copy at most."""
    operator.run("deploy")
    used = apart(operator, 2)
    assert used == sorted(card for copy in operator.status()["replicas"] for card in copy["gpus"])
    other = on_cards(tmp_path / "other", loaded, f"{operator.settings['project']}-b", place)
    try:
        other.run("deploy")
        assert set(used) < set(apart(operator, 4))
        said = operator.run("scale", "3", code=6)
        assert "0 of 4 cards are free" in said
        assert apart(operator, 4)
    finally:
        other.end()
    operator.run("scale", "4")
    apart(operator, 4)
    operator.save(replicas=4, engine={"max_num_seqs": 16})
    operator.run("deploy", "--yes")
    apart(operator, 4)
    assert ask(operator.hosts[0].address, operator.port)
