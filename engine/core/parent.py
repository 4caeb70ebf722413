"""A core never outlives its API process: the kernel kills it with its parent, also when it is stopped or stuck."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_it() -> None:
    """Ask Linux for SIGKILL when the parent ends; elsewhere the closed socket has to do.

    Linux means the *thread* that started us: it must live as long as the parent does.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the parent ended before the kernel knew of our wish
