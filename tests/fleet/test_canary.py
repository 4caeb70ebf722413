"""Canaries on real hosts: a bad one is found out, rolled back once and kept to its share, and no client notices."""

from __future__ import annotations

import re

import pytest

from tests.fleet.operator import Clients, Operator

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(900)]
SLOW = "late:value=6"  # of every image here, so that three times as late stands out from a busy machine's noise
BAD = {  # what the image does, and what is said of it
    "never starts": ("nosuch", "ended with code"),
    "completions hang": ("hang", "did not complete a request"),
    "30 % errors": (f"{SLOW} error:value=0.3", "errors in"),
    "first token three times later": ("late:value=18", "first token takes"),
    "wrong tokens": (f"{SLOW} wrong", "answers a golden prompt otherwise"),
    "dies in soak": (f"{SLOW} crash:after=40", "stopped serving|errors in"),  # golden prompts are shorter
}


def make_image(operator: Operator, name: str, fault: str) -> None:
    """The product's image with a fault of the oracle switched on, on every host."""
    script = f"""id=$(docker create {operator.bed.image} true) &&
        docker commit --change 'ENV DSCTL_ORACLE_FAULT="{fault}"' $id {name} && docker rm $id"""
    for number in range(3):
        operator.shell(number, "sh", "-c", script)


def specs(operator: Operator) -> set[str]:
    """The specifications of all copies, as their labels say."""
    mine = f"--filter label=dsctl.project={operator.settings['project']} --filter label=dsctl.role=replica"
    shown = '{{index .Config.Labels "dsctl.spec"}}'
    command = f"docker ps -q {mine} | xargs -r docker inspect -f '{shown}'"
    return {line for number in range(3) for line in operator.shell(number, "sh", "-c", command).split()}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_canary_is_rolled_back(operator: Operator, kind: str) -> None:
    """Exit 7, one rollback to the old specification, a share within 10 ± 2 %, every stream whole and unaltered."""
    fault, said = BAD[kind]
    make_image(operator, "good:1", SLOW)
    make_image(operator, "bad:1", fault)
    operator.save(image={"name": "good:1", "front": operator.bed.image})
    rollout = {"canary_s": 3, "canary_ttft": 1.2, "gate_timeout_s": 10, "drain_timeout_s": 20}
    operator.save(rollout=rollout)
    operator.run("deploy")
    before = specs(operator)
    with Clients([host.address for host in operator.bed.hosts[:2]], operator.port) as clients:
        operator.save(image={"name": "bad:1"})
        told = operator.run("deploy", "--canary", "10%", code=7)
    assert clients.wrong == []
    assert re.search(said, told), told[-3000:]
    assert told.count("rolling back to release 1") == 1
    assert "outcome: rolled back to what release 1 was" in told
    assert specs(operator) == before
    shared = re.search(r"took ([\d.]+) % of (\d+) requests", told)
    if shared is not None and int(shared[2]) >= 100:
        assert 8 <= float(shared[1]) <= 12, shared[0]
    operator.save(image={"name": "good:1"})
    operator.run("plan")
