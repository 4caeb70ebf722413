"""The core as a process: what it says, how it ends, and that it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engine.wire.messages import Abort, Beat, Fatal, Quit, Refused, ResetPrefixCache, Sampling, Step, Submit
from tests.engine.core.conftest import DEADLINE_S, ROOT, Core

Spawn = Callable[[], Core]


def _submit(seq: int, max_tokens: int = 6, prompt: int = 40) -> Submit:
    return Submit(seq, list(range(prompt)), Sampling(seed=1, max_tokens=max_tokens))


def test_a_whole_life(spawn: Spawn, checkpoint: Path) -> None:
    """A spare waits in silence, loads on Start, serves, refuses, aborts, beats all along, and leaves on Quit."""
    core = spawn()
    core.start(checkpoint, max_model_len=400, kv_cache_tokens=800, faults={"step_s": 0.01})
    core.channel.send(_submit(1))  # may come before the core is ready
    ready = core.ready()
    assert core.beats
    assert (ready.epoch, ready.max_model_len, ready.kv_total_tokens, ready.block_size) == (3, 400, 800, 16)
    assert (ready.exact, ready.reason) == (True, "")
    assert set(ready.plan) == {"weights", "cache", "workspace", "runtime"}
    (deltas,) = core.follow(1).values()
    assert [len(delta.ids) for delta in deltas] == [1] * 6
    assert deltas[-1].finished == "length"
    core.channel.send(_submit(2, 900))
    refused = core.next(Refused)
    assert (refused.seq, refused.status) == (2, 400)
    core.channel.send(_submit(3, 300))
    core.next(Step)
    core.channel.send(Abort([3]))
    assert core.follow(3)[3][-1].finished == "abort"
    core.channel.send(ResetPrefixCache())
    core.beats.clear()
    beat = core.next(Beat)
    while beat.cached_tokens or beat.free_tokens < 800:
        beat = core.next(Beat)
    assert (beat.epoch, beat.running, beat.waiting, beat.in_step_s) == (3, 0, 0, 0.0)
    assert beat.rss_bytes > 1 << 20
    core.channel.send(Quit())
    assert core.process.wait(DEADLINE_S) == 0


def test_the_same_request_gets_the_same_answer_from_the_next_core(spawn: Spawn, checkpoint: Path) -> None:
    """A core dies in the middle of a stream; the next one, given what was received, completes it identically."""
    dying, next_one = spawn(), spawn()
    dying.start(checkpoint, {"die_at_step": 5.0, "epochs": 3.0})
    dying.ready()
    dying.channel.send(_submit(1, 10))
    received: list[int] = []
    while (step := dying.next(Step)) is not None:
        received += step.deltas[0].ids
    assert dying.process.wait(DEADLINE_S) == -signal.SIGKILL
    assert len(received) == 4
    next_one.start(checkpoint, {"die_at_step": 5.0, "epochs": 2.0})
    next_one.ready()
    next_one.channel.send(
        Submit(1, list(range(40)), Sampling(seed=1, max_tokens=10), output_ids=received, resumed=True)
    )
    next_one.channel.send(_submit(2, 10))
    deltas = next_one.follow(1, 2)
    assert received + [i for delta in deltas[1] for i in delta.ids] == [i for delta in deltas[2] for i in delta.ids]


def test_a_hang_shows_in_the_beats_and_ends_with_the_socket(spawn: Spawn, checkpoint: Path) -> None:
    """A step that never ends grows in in_step_s while beats go on; closing the socket ends the process."""
    core = spawn()
    core.start(checkpoint, {"hang_at_step": 2.0})
    core.ready()
    core.channel.send(_submit(1))
    beat = core.next(Beat)
    while beat.in_step_s < 0.3:
        beat = core.next(Beat)
    assert (beat.step, beat.running) == (1, 1)
    core.socket.close()
    assert core.process.wait(DEADLINE_S) == 0


def test_what_cannot_be_served_is_fatal(spawn: Spawn) -> None:
    """A bad model is one Fatal with the exit code and the words a person needs; then the process ends with it."""
    core = spawn()
    core.start("/does/not/exist")
    fatal = core.next(Fatal)
    assert (fatal.exit_code, fatal.kind) == (2, "CheckpointError")
    assert "/does/not/exist" in fatal.message
    assert core.process.wait(DEADLINE_S) == 2


PARENT = """
import socket, subprocess, sys, time
ours, theirs = socket.socketpair()
core = subprocess.Popen([sys.executable, "-m", "engine.core", "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()])
print(core.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_core_dies_with_its_parent(is_stopped: bool) -> None:
    """kill -9 of the parent ends the core, also a spare and also when it is stopped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert parent.stdout is not None
    core = psutil.Process(int(parent.stdout.readline()))
    try:
        _wait(
            lambda: "torch" in {Path(one.path).name.partition(".")[0].removeprefix("lib") for one in core.memory_maps()}
        )
        if is_stopped:
            core.suspend()
        parent.kill()
        _wait(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.wait(DEADLINE_S)
        parent.stdout.close()
        if core.is_running():
            core.kill()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
