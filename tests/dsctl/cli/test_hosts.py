"""`dsctl hosts` before any host is reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsctl.cli.app import run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an inventory."""
    (tmp_path / "dsctl.yaml").write_text("project: p\n")
    (tmp_path / "hosts.yaml").write_text(
        "groups:\n  nodes: gpu0[1-3]\nhosts:\n  gpu01: {address: 10.0.0.1, user: ann}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_hosts_are_listed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pattern lists its hosts with what the inventory says of them."""
    assert run(["hosts", "ls", "--hosts", "nodes:!gpu02", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [host["name"] for host in told["hosts"]] == ["gpu01", "gpu03"]
    assert told["hosts"][0]["user"] == "ann"
    assert run(["hosts", "ls"]) == 0
    assert "10.0.0.1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["check"], ["check", "--hosts", "gpu09"], ["trust", "gpu09"], ["trust"]])
def test_a_pattern_without_hosts_is_a_usage_error(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No host named, or one that does not exist: exit 2 before anything is connected."""
    assert run(["hosts", *arguments]) == 2
    assert capsys.readouterr().err


def test_the_password_file_must_be_there(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sudo password that cannot be read stops the run before anything is connected."""
    monkeypatch.setenv("DSCTL_SUDO_PASSWORD_FILE", str(project / "none"))
    assert run(["hosts", "check", "--hosts", "gpu01"]) == 2
    assert "DSCTL_SUDO_PASSWORD_FILE" in capsys.readouterr().err
