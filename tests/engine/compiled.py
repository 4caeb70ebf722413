"""Compiled kernels for tests: every build this machine can run, kept in pytest's own cache between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.kernels.cpu.isa import usable
from engine.kernels.cpu.library import Library, load

BUILDS = [isa.name for isa in usable()]


def library(config: pytest.Config, name: str | None) -> Library:
    """The build called `name`, or the one the engine would choose; skips where there is no compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(config.cache.mkdir("kernels"))))
        patch.delenv("DSCTL_KERNEL_ISA", raising=False)
        found = load(name)
    if found is None:
        pytest.skip("no C++ compiler")
    return found
