"""An operator's program is killed, stopped or cut off: the next run completes, and a late one changes nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place
from tests.fleet.cutproxy import CutProxy
from tests.fleet.operator import Clients, Operator

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(3600)]
CUTS = (5, 50)
SEED = int(os.environ.get("DSCTL_CUT_SEED", time.time() // 86400))  # another one every day; any must pass
MOST_STEPS = 14  # of a change of two copies, so that most cuts fall into it
PARTITION_S = 40.0


def begun_steps(running: subprocess.Popen[str], wanted: int) -> bool:
    """Waits until so many steps have begun; False when the program ended before. The caller reads on to the end."""
    assert running.stderr is not None
    begun = 0
    for line in running.stderr:
        begun += "[" in line and "/" in line
        if begun >= wanted:
            return True
    return False


def deploy_on(operator: Operator) -> str:
    """`deploy`, as soon as nobody holds the lock any more."""
    end = time.monotonic() + 120
    while True:
        running = operator.start("deploy")
        out, err = running.communicate(timeout=600)
        if running.returncode == 0:
            return out + err
        assert running.returncode == 5, f"{running.returncode}\n{out}\n{err[-4000:]}"
        assert time.monotonic() < end, err[-4000:]
        time.sleep(1)


@pytest.mark.parametrize("cuts", CUTS)
def test_cut_anywhere_the_next_run_makes_it_equal_to_the_plan(
    operator: Operator, cuts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 and Ctrl-C at random moments after the first mutation: the same command completes, every time."""
    with capsys.disabled():
        sys.stderr.write(f"\ncut points: seed {SEED} (DSCTL_CUT_SEED)\n")
    chosen = random.Random(SEED)
    operator.run("deploy")
    hit = 0
    with Clients([host.address for host in operator.bed.hosts[:2]], operator.port) as clients:
        for number in range(cuts):
            operator.save(engine={"max_num_seqs": 8 + number})
            steps, delay = chosen.randrange(2, MOST_STEPS), chosen.random()
            how = chosen.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
            running = operator.start("deploy")
            if begun_steps(running, steps):
                time.sleep(delay)
                running.send_signal(how)
            running.communicate(timeout=300)
            code = running.returncode
            assert code in (0, 130, -9), f"seed {SEED}, cut {number}: {code}"
            hit += code != 0
            deploy_on(operator)
            operator.run("plan")
            told = operator.status()
            assert [each["state"] for each in told["replicas"]] == ["ready", "ready"], f"seed {SEED}, cut {number}"
    assert clients.wrong == [], f"seed {SEED}"
    assert hit > cuts // 2


@pytest.fixture
def proxies(bed: Bed) -> Iterator[list[CutProxy]]:
    """A way to each of the first three hosts that can be cut."""
    made = [CutProxy(host.address) for host in bed.hosts[:3]]
    yield made
    for each in made:
        each.close()


def behind(operator: Operator, proxies: list[CutProxy], directory: Path, place: Place) -> Operator:
    """The same operator somewhere else in the network: every host is reached through its proxy."""
    other = Operator(directory, operator.bed, str(operator.settings["project"]), operator.port, place)
    hosts = yaml.safe_load((directory / "hosts.yaml").read_text())
    keys = dict(line.split(" ", 1) for line in (directory / "known_hosts").read_text().splitlines())
    known: list[str] = []
    for proxy, told in zip(proxies, hosts["hosts"].values(), strict=True):
        known.append(f"[127.0.0.1]:{proxy.port} {keys[told['address']]}")
        told |= {"address": "127.0.0.1", "port": proxy.port}
    (directory / "hosts.yaml").write_text(yaml.safe_dump(hosts))
    (directory / "known_hosts").write_text("\n".join(known) + "\n")
    return other


def state(operator: Operator) -> list[str]:
    """Every container and every file of the project on every host, but for who holds the lock."""
    project = operator.settings["project"]
    script = f"""docker ps -a --no-trunc --format '{{{{.ID}}}} {{{{.Names}}}} {{{{.State}}}}' | grep {project} | sort
        find /var/lib/dsctl/{project} -type f -not -name 'lock*' -not -name 'fence*' -exec sha256sum {{}} + | sort"""
    return [operator.shell(number, "sh", "-c", script) for number in range(3)]


@pytest.mark.parametrize("how", ["partitioned", "stopped"])
def test_a_late_operator_changes_nothing(
    operator: Operator, proxies: list[CutProxy], place: Place, tmp_path: Path, how: str
) -> None:
    """40 s without the lock's holder, another deploy, then the holder is back: 0 stale mutations."""
    first = behind(operator, proxies, tmp_path / "behind", place)
    first.run("deploy")
    first.save(engine={"max_num_seqs": 32})
    late = first.start("deploy")
    assert begun_steps(late, 4)
    began = time.monotonic()
    if how == "stopped":
        late.send_signal(signal.SIGSTOP)
    for proxy in proxies:
        proxy.freeze()
    operator.save(engine={"max_num_seqs": 16})
    with Clients([host.address for host in operator.bed.hosts[:2]], operator.port) as clients:
        deploy_on(operator)
        before = state(operator)
        time.sleep(max(0.0, began + PARTITION_S - time.monotonic()))
        for proxy in proxies:
            proxy.heal()
        if how == "stopped":
            late.send_signal(signal.SIGCONT)
        told = late.communicate(timeout=300)
        assert late.returncode != 0, told
    assert state(operator) == before
    assert clients.wrong == []
    operator.run("plan")
