"""How a flow speaks while it works: an interface, so that flows know nothing of terminals."""

from __future__ import annotations

from typing import Protocol


class Voice(Protocol):
    """Where progress goes; results go elsewhere (stdout, by the cli)."""

    def say(self, text: str) -> None:
        """One line for one change of state."""

    def note(self, text: str) -> None:
        """A detail, shown with -v."""

    def waiting(self, what: str, elapsed_s: float, limit_s: float) -> None:
        """Called often while waiting; shown at most every 30 s."""

    def confirm(self, hazard: str, flag: str) -> None:
        """Asks a person; returns when they agree, raises ConfirmationError naming `flag` when nobody can be asked."""


class Silence:
    """A voice that says nothing and agrees to nothing; for tests and for asking without telling."""

    def say(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def waiting(self, what: str, elapsed_s: float, limit_s: float) -> None:
        """Nothing."""

    def confirm(self, hazard: str, flag: str) -> None:
        """Refuses."""
        from dsctl.base.errors import ConfirmationError

        raise ConfirmationError(f"{hazard} needs {flag}")
