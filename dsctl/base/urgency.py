"""A process that measures goes before other programs, where the system lets it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NICE = -10


def be_prompt(nice: int = NICE) -> None:
    """Raise this process, and its session where the kernel weighs sessions first and niceness only within them."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        if os.getsid(0) == os.getpid():  # a session of its own: nobody else is raised with it
            Path("/proc/self/autogroup").write_text(str(nice))
