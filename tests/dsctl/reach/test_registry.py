"""The registry of one plan: it answers while the plan lives, dies with it however that ends, and says how far it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsctl.base.voice import Silence
from dsctl.reach.registry import Progress, Registry

WAIT_S = 60.0
PROGRAM = """
import time
from dsctl.reach.registry import Registry
registry = Registry()
print(registry._started(), flush=True)
time.sleep(600)
"""


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not Registry.is_possible(), reason="docker-registry is not installed")
def test_it_dies_with_its_plan(tmp_path: Path) -> None:
    """kill -9 of the process that started it ends it too; nothing listens any more."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        assert answers(port)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    end = time.monotonic() + WAIT_S
    while answers(port):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_progress_adds_layers_up() -> None:
    """Bytes of all layers together; lines without numbers, and other phases, count nothing."""
    progress = Progress(Silence(), "gpu01", "receiving")
    for line in (
        {"status": "Pulling fs layer", "id": "a"}, {"status": "Downloading", "id": "a", "progressDetail": {}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 5, "total": 10}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 1, "total": 20}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 9, "total": 10}},
        {"status": "Extracting", "id": "a", "progressDetail": {"current": 3, "total": 10}},
    ):  # fmt: skip
        progress.told(line)
    assert progress.sums() == (10, 30)
