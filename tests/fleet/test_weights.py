"""Weights on real hosts: once from the operator, then from host to host; whole or not at all, nothing left behind."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.bed.engine import BedError
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place
from tests.fleet.operator import Operator

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]
USED = 3
MIB = 1 << 20
WAIT_S = 120.0


@pytest.fixture
def operator(loaded: Bed, place: Place, tmp_path: Path) -> Iterator[Operator]:
    """Somebody with a checkpoint on their own machine and hosts that have none of it."""
    name = f"w{random.randrange(1 << 30):x}"
    made = Operator(tmp_path / "op", loaded, name, random.randrange(8100, 9900), place)
    made.save(engine={"kind": "dsctl", "device": "cpu"})
    made.settings["model"] = f"/data/{name}/m1"
    checkpoint(tmp_path / "source", 1)
    made.save(weights={"source": str(tmp_path / "source")})
    yield made
    made.start("down", "--yes", "--purge").communicate(timeout=300)
    for number in range(USED):
        made.shell(number, "sh", "-c", f"umount /data/{name} 2>/dev/null; rm -rf /data/{name}")


def checkpoint(directory: Path, seed: int, shards: int = 6, size: int = 4 * MIB) -> None:
    """Files in the layout of a checkpoint, larger than one chunk together."""
    chosen = random.Random(seed)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"seed": seed}))
    for number in range(shards):
        (directory / f"model-{number}.safetensors").write_bytes(chosen.randbytes(size))


def sums(operator: Operator, number: int, directory: str) -> str:
    """SHA-256 of every file of a host's directory."""
    script = 'cd "$1" 2>/dev/null && find . -name .dsctl -prune -o -type f -print | sort | xargs -r sha256sum || true'
    return operator.shell(number, "sh", "-c", script, "sh", directory)


def expected(source: Path) -> str:
    """The same of the source."""
    from hashlib import sha256

    files = sorted(path for path in source.iterdir() if path.is_file())
    return "".join(f"{sha256(path.read_bytes()).hexdigest()}  ./{path.name}\n" for path in files)


def leftovers(operator: Operator) -> list[str]:
    """Short-lived containers and their files that are still on a host."""
    project = operator.settings["project"]
    found: list[str] = []
    for number in range(USED):
        label = f"label=dsctl.project={project}"
        found += operator.shell(number, "docker", "ps", "-aq", "--filter", label).split()
        found += operator.shell(number, "sh", "-c", f"ls /var/lib/dsctl/{project}/weights 2>/dev/null || true").split()
        found += operator.shell(number, "sh", "-c", f"ls -d /data/{project}/*.partial 2>/dev/null || true").split()
    return found


def test_weights_reach_every_host_and_stay_right(operator: Operator, tmp_path: Path) -> None:
    """Three hosts get them, once; a rotten chunk is found and it alone is brought; gc removes what nobody names."""
    model = operator.settings["model"]
    assert "round 2" in operator.run("weights", "push", "--dry-run", code=3)
    operator.run("weights", "push")
    assert [sums(operator, n, model) for n in range(USED)] == [expected(tmp_path / "source")] * USED
    assert leftovers(operator) == []
    operator.run("weights", "push", "--dry-run")
    operator.run("weights", "verify")

    rot = f"printf x | dd of={model}/model-1.safetensors bs=1 seek=77 conv=notrunc 2>/dev/null"
    operator.shell(1, "sh", "-c", f"touch -r {model}/model-1.safetensors /tmp/t; {rot}; "
                                  f"touch -r /tmp/t {model}/model-1.safetensors")  # fmt: skip
    assert "model-1.safetensors: chunk 0 is wrong" in operator.run("weights", "verify", code=1)
    said = operator.run("weights", "push", "-v")
    assert f"{4 * MIB / MIB:.1f} MiB moved" in said
    assert sums(operator, 1, model) == expected(tmp_path / "source")

    operator.settings["model"] = model.replace("m1", "m2")
    operator.save()
    operator.run("weights", "gc", code=8)
    operator.run("weights", "gc", "--yes")
    assert [sums(operator, n, model) for n in range(USED)] == [""] * USED
    assert leftovers(operator) == []


@pytest.mark.long
def test_a_killed_sender_is_replaced(operator: Operator, tmp_path: Path) -> None:
    """kill -9 of a sending container in the middle: another holder goes on from what has arrived."""
    model, project = operator.settings["model"], operator.settings["project"]
    operator.save(weights={"rate_mib": 4})
    running = operator.start("weights", "push", f"{operator.bed.hosts[0].name}:/data/{project}/seed")
    running.communicate(timeout=60)
    assert running.returncode == 6  # that host has nothing there yet
    operator.run("weights", "push", "--hosts", operator.bed.hosts[0].name)
    running = operator.start("weights", "push")
    name = f"dsctl-{project}-weights-send"
    grown = f"find /data/{project} -path '*.partial/*.safetensors' | head -n 1"
    end = time.monotonic() + WAIT_S
    while not operator.shell(1, "sh", "-c", grown).strip():
        assert time.monotonic() < end
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    operator.shell(0, "docker", "kill", name)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, out + err[-3000:]
    assert [sums(operator, n, model) for n in range(USED)] == [expected(tmp_path / "source")] * USED
    assert leftovers(operator) == []


@pytest.mark.long
def test_a_killed_operator_leaves_nothing_that_stays(operator: Operator, tmp_path: Path) -> None:
    """kill -9 of dsctl in the middle: the next run takes over what is there and completes."""
    operator.save(weights={"rate_mib": 4})
    assert operator.cut(3, "weights", "push") or True
    operator.save(weights={"rate_mib": 0})
    operator.run("weights", "push")
    model = operator.settings["model"]
    assert [sums(operator, n, model) for n in range(USED)] == [expected(tmp_path / "source")] * USED
    assert leftovers(operator) == []


@pytest.mark.long
def test_a_full_disk_is_predicted_and_survived(operator: Operator, tmp_path: Path) -> None:
    """No room: refused before a byte moves. Room that goes meanwhile: no half file, and a re-run completes."""
    project, model = operator.settings["project"], operator.settings["model"]
    operator.shell(2, "sh", "-c", f"mkdir -p /data/{project} && mount -t tmpfs -o size=8m tmpfs /data/{project}")
    said = operator.run("weights", "push", code=6)
    assert "more are needed" in said
    assert sums(operator, 0, model) == ""

    checkpoint(tmp_path / "source", 2, shards=12)
    operator.shell(2, "sh", "-c", f"umount /data/{project} && mount -t tmpfs -o size=64m tmpfs /data/{project}")
    operator.save(weights={"rate_mib": 4})
    running = operator.start("weights", "push", "--hosts", operator.bed.hosts[2].name)
    end = time.monotonic() + WAIT_S
    while not operator.shell(2, "sh", "-c", f"ls {model}.partial/*.safetensors 2>/dev/null || true").strip():
        assert time.monotonic() < end
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    operator.shell(2, "sh", "-c", f"cat /dev/zero > /data/{project}/filler 2>/dev/null || true")
    out, err = running.communicate(timeout=300)
    assert running.returncode == 6, out + err[-3000:]
    assert "disk is full" in err
    whole = {line.split()[1]: line for line in expected(tmp_path / "source").splitlines()}
    there = sums(operator, 2, f"{model}.partial").splitlines()
    assert 0 < len(there) < len(whole)
    assert all(line == whole[line.split()[1]] for line in there)
    operator.shell(2, "rm", f"/data/{project}/filler")
    operator.save(weights={"rate_mib": 0})
    operator.run("weights", "push", "--hosts", operator.bed.hosts[2].name)
    assert sums(operator, 2, model) == expected(tmp_path / "source")


@pytest.mark.long
def test_deploy_brings_what_hosts_lack(operator: Operator, tmp_path: Path) -> None:
    """With weights.source, `plan` of a first deploy has the transfers among its steps, before copies start."""
    source = tmp_path / "source"
    tiny = Path(__file__).resolve().parents[2] / "models" / "dsctl-tiny" / "config.json"
    (source / "config.json").write_text(tiny.read_text())
    told = operator.start("plan", "--json").communicate(timeout=300)[0]
    titles = [step["title"] for step in json.loads(told)["steps"]]
    brought = [n for n, title in enumerate(titles) if title.startswith("bring ") and "round" in title]
    started = [n for n, title in enumerate(titles) if title.startswith("start r1 ")]
    assert len(brought) == 3  # from here to one, to the second, to the third
    assert max(brought) < min(started)
    with pytest.raises(BedError):
        operator.shell(0, "ls", operator.settings["model"])
