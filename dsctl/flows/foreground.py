"""serve and gateway: become one program in the foreground, under the operator's own terminal or service manager."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from dsctl.base.errors import ConfigError, ExtraMissingError
from dsctl.base.places import data_root
from dsctl.base.step import MakeState
from dsctl.base.voice import Silence
from dsctl.flows.project import Project

PARTS = {
    "engine": ("torch", "tokenizers", "safetensors", "uvicorn"),
    "gateway": ("uvicorn", "uvloop", "httptools"),
    "provision": ("ansible", "ansible_runner"),
    "bench": ("locust", "gevent", "geventhttpclient", "numpy"),
}


def need(extra: str, verb: str) -> None:
    """ExtraMissingError unless every package of the extra is there."""
    if lacking := [name for name in PARTS[extra] if find_spec(name) is None]:
        message = f"{verb} needs {', '.join(lacking)}, which the extra [{extra}] installs"
        raise ExtraMissingError(message, hint=f"pip install 'dsctl[{extra}]'")


def serve(model: Path, arguments: Sequence[str]) -> NoReturn:
    """One replica of a checkpoint (a directory, or a bundled model's name); the process becomes engine.server."""
    need("engine", "serve")
    become("engine.server", ["--model", str(checkpoint(model, "dsctl serve MODEL_DIR")), *arguments])


def checkpoint(model: Path, usage: str) -> Path:
    """The directory of a checkpoint named by path or as a bundled model. Raises ConfigError when it is none."""
    bundled = data_root() / "models" / model
    directory = bundled if not model.is_dir() and len(model.parts) == 1 and bundled.is_dir() else model
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{model} is not a checkpoint: no config.json in it", hint=usage)
    return directory.absolute()


def gateway(project: Project, arguments: Sequence[str]) -> NoReturn:
    """The gateway of a project in the foreground."""
    need("gateway", "gateway")
    project.door.act(MakeState(), Silence())
    become("dsctl.gateway", ["--state-dir", str(project.places.gateway), *arguments])


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by `python -m module`, with threads that wait without spinning."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"} | os.environ
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)  # noqa: S606 - no shell is wanted
