"""The lock on a host: one holder, no leak, and nothing done by one who lost it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsctl.base.errors import LockHeldError, PreflightError
from dsctl.reach.ssh import lease
from dsctl.reach.ssh.command import LostError
from dsctl.reach.ssh.host import STALE, Host
from tests.dsctl.reach.ssh.server import Sshd
from tests.dsctl.reach.ssh.test_link import until

WHO = {"verb": "deploy", "actor": "ann@desk", "since": 0}


def test_one_at_a_time(opened: Callable[..., Host], tmp_path: Path) -> None:
    """A second holder is refused and told who has the lock; it is free again as soon as the first lets go."""
    first, second = opened(), opened()
    directory = str(tmp_path / "state")
    with lease.hold([first], directory, WHO) as held:
        held["near"].check()
        with (
            pytest.raises(LockHeldError, match="locked by `dsctl deploy` of ann@desk"),
            lease.hold([second], directory, WHO),
        ):
            pass
    with lease.hold([second], directory, WHO) as later:
        assert later["near"].epoch == held["near"].epoch + 1
    assert not (tmp_path / "state" / "lock.json").exists()


def test_a_holder_that_dies_leaks_nothing(opened: Callable[..., Host], tmp_path: Path, sshd: Sshd) -> None:
    """A broken connection frees the lock without any clock; the old holder learns that it lost it."""
    directory = str(tmp_path / "state")
    held = lease.take(opened(), directory, WHO, beat_s=0.05, silence_s=600)
    sshd.cut()
    other = opened()

    def is_free() -> bool:
        try:
            lease.take(other, directory, WHO, beat_s=10, silence_s=600).release()
        except LockHeldError:
            return False
        return True

    assert until(is_free)
    with pytest.raises(LostError, match="the lock was lost"):
        held.check()


def test_silence_cuts_the_holder_off_before_the_lock_is_free(opened: Callable[..., Host], tmp_path: Path) -> None:
    """A holder whose heartbeats stop loses its connection and running commands, then the lock; it can do no more."""
    directory, trace = str(tmp_path / "state"), tmp_path / "trace"
    first, second = opened(), opened()
    held = lease.take(first, directory, WHO, beat_s=1e6, silence_s=1)
    channel = first.link.session(f"sh -c 'while :; do echo x >>{trace}; sleep 0.02; done'", 30)
    assert until(trace.exists)

    def is_free() -> bool:
        try:
            lease.take(second, directory, WHO, beat_s=10, silence_s=600).release()
        except LockHeldError:
            return False
        return True

    assert until(is_free)
    size = trace.stat().st_size
    time.sleep(0.3)
    assert trace.stat().st_size == size
    assert until(lambda: channel.closed or not first.link.is_up())
    with pytest.raises(LostError):
        held.check()
    stale = first.fenced(held.fence, held.epoch, ["touch", str(tmp_path / "late")])
    assert first.run(stale).code == STALE  # also over a connection made anew
    assert not (tmp_path / "late").exists()


def test_the_fence_lets_its_holder_through(host: Host, tmp_path: Path) -> None:
    """A fenced command of the present holder runs, with its own arguments and exit code."""
    with lease.hold([host], str(tmp_path / "state"), WHO) as held:
        argv = host.fenced(held["near"].fence, held["near"].epoch, ["sh", "-c", 'exit "$1"', "sh", "9"])
        assert host.run(argv).code == 9


def test_a_place_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    """A lock whose directory cannot be made is a refusal, not a wait."""
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match="cannot be taken"), lease.hold([host], str(tmp_path / "file" / "x"), WHO):
        pass
