"""`dsctl hosts check` and `trust` against real hosts, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import ROOT

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]


def dsctl(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, in that directory."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "dsctl", *arguments], cwd=directory, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, check=False,
    )  # fmt: skip


def inventory(directory: Path, bed: Bed, users: tuple[str, ...]) -> None:
    """dsctl.yaml and hosts.yaml for the bed."""
    lines = ["hosts:"]
    for host, user in zip(bed.hosts, users, strict=False):
        lines.append(f"  {host.name}: {{address: {host.address}, user: {user}, identity: {bed.key}}}")
    (directory / "hosts.yaml").write_text("\n".join(lines) + "\n")
    (directory / "dsctl.yaml").write_text("project: check\n")


def test_from_unknown_to_ready(bed: Bed, tmp_path: Path) -> None:
    """Unknown keys are refused with the line that trusts them; once trusted, each host says what it has and lacks."""
    inventory(tmp_path, bed, ("root", "op", "nobodyelse"))
    refused = dsctl(tmp_path, "hosts", "check", "--hosts", "all", "--json")
    assert refused.returncode == 6
    told = json.loads(refused.stdout)
    for host in told["hosts"]:
        hint = host["error"]["hint"].split()
        assert hint[:3] == ["dsctl", "hosts", "trust"]
        wrong = dsctl(tmp_path, *hint[1:-1], "SHA256:wrong")
        assert wrong.returncode == 6
        assert hint[-1] in wrong.stderr
        assert dsctl(tmp_path, *hint[1:]).returncode == 0
    assert len((tmp_path / "known_hosts").read_text().splitlines()) == 3
    ready = dsctl(tmp_path, "hosts", "check", "--hosts", "gpu01,gpu02", "--json")
    assert ready.returncode == 0, ready.stdout + ready.stderr
    assert [host["facts"]["docker"]["way"] for host in json.loads(ready.stdout)["hosts"]] == ["streamlocal", "sudo"]
    lacking = dsctl(tmp_path, "hosts", "check", "--hosts", "all")
    assert lacking.returncode == 1
    assert "add it to the docker group" in lacking.stdout
    assert "gpu03  lacks docker, state directory" in lacking.stdout


def test_one_host_that_is_away(bed: Bed, tmp_path: Path) -> None:
    """A host that does not answer is named with the reason; the others are looked at all the same (exit 4)."""
    inventory(tmp_path, bed, ("root",))
    (tmp_path / "known_hosts").write_text(Path(bed.known_hosts).read_text())
    with (tmp_path / "hosts.yaml").open("a") as more:
        more.write(f"  away: {{address: 127.0.0.1, port: 1, user: root, identity: {bed.key}}}\n")
    done = dsctl(tmp_path, "hosts", "check", "--hosts", "all")
    assert done.returncode == 4
    assert "away: no answer from 127.0.0.1 port 1" in done.stdout
    assert "gpu01  ready" in done.stdout
