"""Deploying on real hosts over SSH: what an operator does in the life of a service, and what must not happen."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fleet.bed import hosts
from tests.fleet.bed.engine import docker
from tests.fleet.bed.hosts import Bed
from tests.fleet.operator import Clients, Operator, ask

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]
USED = 3


def test_the_life_of_a_service(operator: Operator) -> None:
    """Deploy, nothing to do, a changed configuration, more copies, fewer, rollback: streams go on unharmed."""
    bed = operator.bed
    assert operator.run("plan", code=3)
    operator.run("deploy")
    operator.run("plan")
    assert "record release 2" not in operator.run("deploy")
    first = _specs(operator)
    with Clients([host.address for host in bed.hosts[:2]], operator.port) as clients:
        operator.save(engine={"max_num_seqs": 32})
        operator.run("plan", code=3)
        operator.run("deploy")
        assert _specs(operator) != first
        operator.run("scale", "4")
        assert len(operator.status()["replicas"]) == 4
        operator.run("scale", "2")
        operator.run("rollback")
    assert clients.wrong == []
    assert clients.asked > 20
    told = operator.status()["replicas"]
    assert len(told) == 2
    assert _specs(operator) == first
    _no_secret_shows(operator)
    operator.run("down", code=8)
    operator.run("down", "--yes", "--purge")
    for number in range(USED):
        label = f"label=dsctl.project={operator.settings['project']}"
        assert operator.shell(number, "docker", "ps", "-aq", "--filter", label).strip() == ""
        assert operator.settings["project"] not in operator.shell(number, "ls", "/var/lib/dsctl").split()


def _specs(operator: Operator) -> set[str]:
    """The specifications of all copies, as their labels say."""
    mine = f"--filter label=dsctl.project={operator.settings['project']} --filter label=dsctl.role=replica"
    shown = '{{index .Config.Labels "dsctl.spec"}}'
    command = f"docker inspect -f '{shown}' $(docker ps -q {mine})"
    return {
        line
        for host in operator.bed.hosts[:USED]
        for line in docker(operator.place, "exec", host.container, "sh", "-c", f"{command} || true").split()
    }


def _no_secret_shows(operator: Operator) -> None:
    """The tokens stand in files for their readers only: in no process list, no inspection, no log, no other file."""
    home = f"/var/lib/dsctl/{operator.settings['project']}"
    script = f"for f in {home}/secrets/*/*; do cat $f; echo; done"
    tokens = set(operator.shell(0, "sh", "-c", script).split())
    tokens = {token for token in tokens if len(token) >= 20}
    assert tokens
    everything = """ps axww; docker ps -aq | xargs docker inspect; docker ps -aq | xargs -n 1 docker logs 2>&1
        find /var/lib/dsctl -type f -not -path '*/secrets/*' -exec cat {} +"""
    for number in range(USED):
        shown = operator.shell(number, "sh", "-c", everything)
        assert not [token for token in tokens if token in shown]
    modes = operator.shell(0, "sh", "-c", f"find {home}/secrets -type f -exec stat -c %a {{}} +").split()
    assert set(modes) == {"400"}


def test_a_copy_that_never_starts_is_rolled_back(operator: Operator) -> None:
    """An image that cannot run fails its gate (exit 7); what served before serves on, and no stream is harmed."""
    operator.run("deploy")
    for number in range(USED):
        operator.shell(number, "sh", "-c", "tar c -C /etc hostname | docker import - broken:1")
    with Clients([host.address for host in operator.bed.hosts[:2]], operator.port) as clients:
        operator.save(image={"name": "broken:1", "front": operator.bed.image})
        said = operator.run("deploy", code=7)
    assert clients.wrong == []
    assert "outcome" in said
    told = operator.status()
    assert len([each for each in told["replicas"] if each.get("state") in ("ready", "active")]) == 2
    operator.save(image={"name": operator.bed.image})
    operator.run("deploy")
    operator.run("plan")


def test_killed_at_any_step_the_next_run_completes(operator: Operator) -> None:
    """kill -9 after a random step of a first deploy and of a change: the same command completes both."""
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed)
    for changes in ({}, {"max_num_seqs": 16}):
        operator.save(engine=changes)
        steps = chosen.randrange(1, 22)
        was_cut = operator.cut(steps, "deploy")
        operator.run("deploy")
        assert ask(operator.bed.hosts[0].address, operator.port), f"seed {seed}, cut {was_cut} after {steps} steps"


def test_a_host_that_was_switched_off_serves_again(operator: Operator) -> None:
    """After a host's power was cut, its copies, gateway and nginx come back by themselves; others serve meanwhile."""
    operator.run("deploy")
    with Clients([operator.bed.hosts[1].address], operator.port) as clients:
        hosts.restart(operator.place, operator.bed.hosts[2])
        end = time.monotonic() + 120
        settled(operator, end)
    assert clients.wrong == []
    hosts.restart(operator.place, operator.bed.hosts[0])
    end = time.monotonic() + 120
    while True:
        try:
            assert ask(operator.bed.hosts[0].address, operator.port)
            break
        except (OSError, AssertionError):
            assert time.monotonic() < end
            time.sleep(0.5)
    settled(operator, end)


def settled(operator: Operator, end: float) -> None:
    """Polls until there is nothing left to do and all copies are ready."""
    while True:
        plan = operator.start("plan")
        out, err = plan.communicate(timeout=300)
        if plan.returncode == 0:
            return
        assert time.monotonic() < end, out + err
        time.sleep(1)


def test_two_projects_share_the_hosts(operator: Operator, loaded: Bed, tmp_path: Path) -> None:
    """Two projects deployed at the same time on the same hosts both serve, on ports of their own."""
    other = Operator(tmp_path / "other", loaded, f"{operator.settings['project']}-b", operator.port + 1, operator.place)
    try:
        both = [each.start("deploy") for each in (operator, other)]
        for running in both:
            out, err = running.communicate(timeout=300)
            # the later one may find a port it planned for taken: it is refused before anything serves, and asked again
            assert running.returncode in (0, 6), out + err[-4000:]
        for each in (operator, other):
            each.run("deploy")
        urls = [each["url"] for one in (operator, other) for each in one.status()["replicas"]]
        assert len(set(urls)) == 4
        assert ask(loaded.hosts[0].address, operator.port)
        assert ask(loaded.hosts[1].address, other.port)
    finally:
        other.start("down", "--yes", "--purge").communicate(timeout=300)
