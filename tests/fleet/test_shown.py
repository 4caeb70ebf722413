"""Six copies on three hosts, as an operator runs them for weeks: each change under streams, none failed or altered."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.bed import hosts
from tests.fleet.operator import Clients, Operator, ask
from tests.fleet.test_deploy import settled

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(1800)]


def timed(operator: Operator, *arguments: str) -> str:
    """The command line, and how long it took on standard output."""
    began = time.monotonic()
    said = operator.run(*arguments)
    sys.stdout.write(f"{' '.join(arguments)}: {time.monotonic() - began:.1f} s\n")
    return said


def test_six_copies_on_three_hosts(operator: Operator) -> None:
    """Deploy, no-op, roll, 6 → 10 → 2, back to each kept release: 0 failed or altered."""
    operator.save(replicas=6, placement={"max_per_host": 4})
    timed(operator, "deploy")
    assert len(operator.status()["replicas"]) == 6
    before = operator.shell(0, "docker", "ps", "-q", "--no-trunc")
    timed(operator, "deploy")
    assert operator.shell(0, "docker", "ps", "-q", "--no-trunc") == before
    with Clients([host.address for host in operator.hosts[:2]], operator.port) as clients:
        operator.save(engine={"max_num_seqs": 32})
        timed(operator, "deploy")
        for copies in (10, 2):
            timed(operator, "scale", str(copies))
            assert len(operator.status()["replicas"]) == copies
        operator.save(engine={"max_num_seqs": 16})
        del operator.settings["replicas"]
        operator.save()
        timed(operator, "deploy")
        for number in (1, 2, 3):
            timed(operator, "rollback", str(number))
            assert len(operator.status()["replicas"]) == 2
    assert clients.wrong == []
    assert clients.asked > 100
    sys.stdout.write(f"streams: {clients.asked}, failed or altered: {len(clients.wrong)}\n")


def test_every_host_is_switched_off_at_once(operator: Operator) -> None:
    """After a power cut of the whole site everything serves again by itself; nothing is left to do."""
    operator.save(replicas=6, placement={"max_per_host": 4})
    operator.run("deploy")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda host: hosts.restart(operator.place, host), operator.hosts))
    began = time.monotonic()
    for host in operator.hosts[:2]:
        while True:
            try:
                assert ask(host.address, operator.port)
                break
            except (OSError, AssertionError):
                assert time.monotonic() - began < 180
                time.sleep(0.3)
    sys.stdout.write(f"both fronts served {time.monotonic() - began:.1f} s after the last host's Docker answered\n")
    settled(operator, began + 300)
