"""What every verb starts from: the settings, the paths and the door of one project."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.places import Places, default_home
from dsctl.config.schema import Scalar, schema
from dsctl.config.settings import Settings, load
from dsctl.reach.door import Door
from dsctl.reach.local import Local
from dsctl.reach.patience import Patience

RELEASE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Project:
    """One project on this machine."""

    settings: Settings
    places: Places
    door: Door
    python: str  # the interpreter its programs run with


def open_project(
    config: Path | None, overrides: Mapping[str, Scalar] | None = None, *, timeout_s: float = 0.0
) -> Project:
    """The project that dsctl.yaml (or its absence) names, in the home the environment names."""
    settings = load(config, overrides)
    places = Places(default_home(os.environ), settings.project)
    places.check()
    python = sys.executable
    return Project(settings, places, Local(places, python, Patience(timeout_s)), python)


@dataclass(frozen=True, slots=True)
class Release:
    """What was deployed last: its settings and how many replicas."""

    settings: Settings
    replicas: int


def show_release(settings: Settings, replicas: int) -> str:
    """release.json: the same text for the same release."""
    told = {
        "schema_version": RELEASE_VERSION,
        "replicas": replicas,
        "source": str(settings.source) if settings.source else None,
        "settings": dict(settings.values),
    }
    return json.dumps(told, indent=1) + "\n"


def last_release(project: Project) -> Release | Missing:
    """The recorded release; one written by a newer dsctl is refused."""
    text = project.door.read(project.places.release)
    if isinstance(text, Missing):
        return text
    try:
        told = cast("dict[str, Any]", json.loads(text))
        version = int(told["schema_version"])
        values = {k: s.default for k, s in schema().settings.items()} | dict(told["settings"])
        source = Path(told["source"]) if told["source"] else None
        release = Release(Settings(values, frozenset(values), source), int(told["replicas"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DsctlError(f"{project.places.release} cannot be read", why=repr(error), hint="dsctl deploy") from error
    if version > RELEASE_VERSION:
        from dsctl.base.errors import PreflightError

        raise PreflightError(f"{project.places.release} was written by a newer dsctl", hint="upgrade this dsctl")
    return release
