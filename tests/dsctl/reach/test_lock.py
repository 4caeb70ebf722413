"""The lock: one holder, freed by death, not inherited, and safe against the removal of its file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsctl.base.errors import LockHeldError, PreflightError
from dsctl.reach.lock import held

HOLD = """
import sys
from pathlib import Path
from dsctl.reach.lock import held
with held(Path(sys.argv[1]), "deploy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    """A refusal names verb and pid, and the lock is free again afterwards."""
    with (
        held(tmp_path / "lock", "deploy"),
        pytest.raises(LockHeldError, match=rf"dsctl deploy.*pid {os.getpid()}"),
        held(tmp_path / "lock", "scale"),
    ):
        raise AssertionError("two holders")
    with held(tmp_path / "lock", "scale"):
        pass


def test_death_frees_it(tmp_path: Path) -> None:
    """kill -9 of the holder leaves no lock behind, though the file stays."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeldError), held(tmp_path / "lock", "down"):
            raise AssertionError("two holders")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with held(tmp_path / "lock", "down"):
        pass


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    """A daemon started while it is held does not hold it on."""
    with held(tmp_path / "lock", "deploy"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with held(tmp_path / "lock", "deploy"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_removed_file_does_not_make_two_holders(tmp_path: Path) -> None:
    """When the file is removed while held, the next one locks the new file; the old holder's end changes nothing."""
    with held(tmp_path / "x" / "lock", "down"):
        (tmp_path / "x" / "lock").unlink()
        with (
            held(tmp_path / "x" / "lock", "deploy"),
            pytest.raises(LockHeldError),
            held(tmp_path / "x" / "lock", "scale"),
        ):
            raise AssertionError("two holders")


def test_a_home_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """Where the state directory cannot be made, nothing starts, and the error names the place."""
    (tmp_path / "home").touch()
    with pytest.raises(PreflightError, match="home"), held(tmp_path / "home" / "dsctl" / "lock", "deploy"):
        pytest.fail("the lock was taken")
