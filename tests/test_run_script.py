"""./run in a clean directory: finds a Python, installs once, says what it does on stderr, and names what is missing.

pip and venv are played by stand-ins, so nothing is downloaded; the real installation is what every fresh clone does.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]

# Stands for a Python: knows its version, makes a .venv holding a copy of itself, logs every call, and obeys $FAKE_*.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$FAKE_LOG"
case "$*" in
  *version_info*sys.exit*|*'sys.exit(sys.version_info'*) exit "${FAKE_OLD:-0}" ;;
  *'import venv, ensurepip'*) exit "${FAKE_NO_VENV:-0}" ;;
  *'version_info[:2]'*) echo 3.11 ;;
  --version) echo "Python ${FAKE_VERSION:-3.11.7}" ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$FAKE_SELF" "$3/bin/python" && cp "$FAKE_SELF" "$3/bin/lint-imports" ;;
  '-m pip --version') echo pip ;;
  '-m pip config list') [ -z "${FAKE_INDEX:-}" ] || echo "global.index-url='x'" ;;
  *'import torch'*) exit 1 ;;
  *download.pytorch.org*) exit "${FAKE_NO_CPU_INDEX:-0}" ;;
  '-m pip install '*) echo noise; echo noise >&2; sleep "${FAKE_SLEEP:-0}"; exit "${FAKE_PIP_FAILS:-0}" ;;
  '-m dsctl '*) shift 2; echo "dsctl:$*" ;;
  '-m tests.fleet.bed status') exit "${FAKE_BED_IS_DOWN:-0}" ;;
  '-m ruff '*) exit "${FAKE_RUFF_FAILS:-0}" ;;
esac
"""


class Clone:
    """A checkout with only what ./run needs, and a fake Python first on PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "a clone with spaces"
        self.directory.mkdir()
        self.log = directory / "calls"
        self.log.touch()
        shutil.copy(ROOT / "run", self.directory / "run")
        shutil.copy(ROOT / "pyproject.toml", self.directory / "pyproject.toml")
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.python = self.bin / "python3"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        self.environment = keep | {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "FAKE_LOG": str(self.log),
            "FAKE_SELF": str(self.python),
        }

    def start(self, *arguments: str, shell: str = "sh", **environment: str) -> subprocess.Popen[str]:
        """./run, in the background, from another directory."""
        return subprocess.Popen(
            [shell, str(self.directory / "run"), *arguments], env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=self.directory.parent,
        )  # fmt: skip

    def run(self, *arguments: str, expect: int = 0, shell: str = "sh", **environment: str) -> tuple[str, str]:
        """./run to its end: stdout and stderr."""
        process = self.start(*arguments, shell=shell, **environment)
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == expect, stderr
        return stdout, stderr

    def installs(self) -> list[str]:
        """The pip installs so far."""
        return [line for line in self.log.read_text().splitlines() if line.startswith("-m pip install")]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A fresh clone."""
    return Clone(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
def test_first_use_installs_and_the_next_does_not(clone: Clone, shell: str) -> None:
    """The first run says what it downloads and installs; the second only runs the verb. stdout is the verb's alone."""
    out, err = clone.run("status", "a b", shell=shell)
    assert out == "dsctl:status a b\n"
    assert "this downloads about" in err
    assert "noise" not in err
    count = len(clone.installs())
    assert count
    assert clone.run("status", shell=shell) == ("dsctl:status\n", "")
    assert len(clone.installs()) == count


def test_a_change_installs_again(clone: Clone) -> None:
    """Another pyproject.toml, another Python, or another place installs again."""
    clone.run("status")
    count = len(clone.installs())
    with (clone.directory / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    clone.run("status")
    assert len(clone.installs()) > count
    count = len(clone.installs())
    clone.run("status", FAKE_VERSION="3.12.0")
    assert len(clone.installs()) > count
    moved = clone.directory.with_name("moved")
    clone.directory.rename(moved)
    clone.directory = moved
    count = len(clone.installs())
    clone.run("status", FAKE_VERSION="3.12.0")
    assert len(clone.installs()) > count


def test_the_cpu_build_is_preferred_without_a_driver(clone: Clone) -> None:
    """No NVIDIA driver: torch from the CPU index first; when that is out of reach the rest goes on."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    clone.run("status")
    assert "whl/cpu" in clone.installs()[0]
    assert clone.installs()[-1].endswith("[all]")
    with (clone.directory / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert "out of reach" in clone.run("status", FAKE_NO_CPU_INDEX="1")[1]


@pytest.mark.parametrize("how", [{"PIP_FIND_LINKS": "/x"}, {"PIP_INDEX_URL": "http://x"}, {"FAKE_INDEX": "1"}])
def test_an_own_index_is_respected(clone: Clone, how: dict[str, str]) -> None:
    """Where this machine says where packages come from, nothing else is asked."""
    clone.run("status", **how)
    assert len(clone.installs()) == 1
    assert "index-url" not in clone.installs()[0]


@pytest.mark.parametrize(
    ("how", "named"),
    [({"FAKE_OLD": "1"}, "apt-get install python3"), ({"FAKE_NO_VENV": "1"}, "apt-get install python3.11-venv")],
    ids=["old python", "no venv"],
)
def test_what_is_missing_is_named(clone: Clone, how: dict[str, str], named: str) -> None:
    """Exit 6 and the package to install; nothing was installed."""
    for name in ("python3.11", "python3.12", "python3.13", "python3.14"):
        shutil.copy(clone.python, clone.bin / name)
    out, err = clone.run("status", expect=6, **how)
    assert (out, clone.installs()) == ("", [])
    assert named in err


def test_no_python_at_all(clone: Clone, tmp_path: Path) -> None:
    """Without any Python the message says which package brings it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "date", "cksum", "cat", "mkdir", "flock"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    _, err = clone.run("status", expect=6, PATH=str(tools), shell=str(tools / "sh"))
    assert "sudo apt-get install python3 python3-venv" in err


def test_a_failing_pip_shows_the_end_of_its_log(clone: Clone) -> None:
    """The last lines of pip are shown, and the next run tries again."""
    assert "noise" in clone.run("status", expect=1, FAKE_PIP_FAILS="1", FAKE_INDEX="1")[1]
    assert clone.run("status", FAKE_INDEX="1")[0] == "dsctl:status\n"


def test_an_interruption_is_no_installation(clone: Clone) -> None:
    """SIGTERM while pip works ends pip too; the next run installs."""
    process = clone.start("status", FAKE_SLEEP="60", FAKE_INDEX="1")
    deadline = time.monotonic() + 60
    while not clone.installs():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert clone.run("status", FAKE_INDEX="1")[0] == "dsctl:status\n"


def test_the_checks_run_all_and_end_with_a_summary(clone: Clone) -> None:
    """`./run test` installs the test tools, runs every check even after a failure, and says which failed first."""
    out, err = clone.run("test", "-x", FAKE_INDEX="1")
    assert clone.installs()[-1].endswith("[all,dev]")
    for name in ("ruff", "import-linter", "pyright", "pytest"):
        assert f"test: {name}" in err
        assert f"ok  {name}" in out
    assert "-m pytest -m not gpu and not long and not fleet -x" in clone.log.read_text()
    out, err = clone.run("test", "--long", expect=1, FAKE_RUFF_FAILS="1", FAKE_INDEX="1")
    assert "FAILED  ruff" in out
    assert "ok  pytest" in out
    assert "first check that failed: ruff" in err
    assert clone.log.read_text().splitlines()[-1] == "-m pytest -m not gpu and not fleet"
    clone.run("test", "--fleet", "-k", "bed", FAKE_INDEX="1")
    assert clone.log.read_text().splitlines()[-1] == "-m pytest -m not gpu and not long -k bed"
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    ("how", "code", "ended"),
    [
        ({}, 0, "down"),
        ({"CI": "true"}, 0, "down --purge"),
        ({"FAKE_RUFF_FAILS": "1"}, 1, "down"),
        ({"FAKE_PIP_FAILS": "1"}, 1, "down"),
    ],
    ids=["all is well", "in CI", "a check fails", "the installation fails"],
)
def test_the_bed_is_always_taken_down(clone: Clone, how: dict[str, str], code: int, ended: str) -> None:
    """`./run test --fleet` prepares hosts while it installs, tests on them last, and ends them whatever happened."""
    clone.environment.pop("CI", None)
    clone.run("test", "--fleet", expect=code, FAKE_INDEX="1", FAKE_BED_IS_DOWN="1", **how)
    calls = clone.log.read_text().splitlines()
    assert "-m tests.fleet.bed prepare" in calls
    assert calls[-1] == f"-m tests.fleet.bed {ended}"
    if "FAKE_PIP_FAILS" not in how:
        assert calls[-2] == "-m pytest -rs -m fleet and not long tests/fleet"
    count = len(calls)
    if not how:
        clone.run("test", "--fleet", FAKE_INDEX="1")
        assert not [call for call in clone.log.read_text().splitlines()[count:] if call.endswith((" down", " prepare"))]
