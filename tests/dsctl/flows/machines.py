"""Projects on a machine in memory, and a voice that remembers what it was told."""

from __future__ import annotations

from pathlib import Path

from dsctl.base.errors import ConfirmationError
from dsctl.base.places import Places
from dsctl.config.schema import Scalar, schema
from dsctl.config.settings import Settings
from dsctl.flows.project import Project
from dsctl.reach.fake import Fake


class Recorder:
    """A voice for tests."""

    def __init__(self, *, agrees: bool = False) -> None:
        self.said: list[str] = []
        self.agrees = agrees

    def say(self, text: str) -> None:
        """Remembers."""
        self.said.append(text)

    def note(self, text: str) -> None:
        """Nothing."""

    def waiting(self, what: str, elapsed_s: float, limit_s: float) -> None:
        """Nothing."""

    def confirm(self, hazard: str, flag: str) -> None:
        """As told at the start."""
        if not self.agrees:
            raise ConfirmationError(hazard, hint=flag)


def settings(**changes: Scalar) -> Settings:
    """Settings with some changed, written `engine__max_num_seqs=8`."""
    given = {key.replace("__", "."): value for key, value in changes.items()}
    values = {key: setting.default for key, setting in schema().settings.items()} | given
    return Settings(values, frozenset(given), None)


def project(tmp_path: Path, fake: Fake | None = None, **changes: Scalar) -> tuple[Project, Fake]:
    """A project and its machine; the same machine goes on when given."""
    places = Places(tmp_path, "dsctl")
    machine = fake or Fake(places)
    return Project(settings(**changes), places, machine, "/usr/bin/python3"), machine
