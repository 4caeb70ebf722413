"""The real doors of a fleet, opened lazily so that verbs on this machine load nothing of SSH and Docker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dsctl.base.missing import Missing
from dsctl.config.inventory import Entry
from dsctl.config.settings import Settings
from dsctl.reach.fleetdoor import Context
from dsctl.reach.hostdoor import HostDoor

if TYPE_CHECKING:
    from dsctl.reach.registry import Registry


def opener(settings: Settings) -> Callable[[Entry], HostDoor]:
    """A function that makes the door to one host; connections are shared and nothing is connected yet."""
    import getpass
    import time

    from dsctl.flows.hosts import ways
    from dsctl.reach.ssh.door import SshDoor

    class Door(SshDoor):
        def peek(self, path: str) -> str | Missing:
            """A file anywhere on the host."""
            found = self.host.read(path)
            return found if isinstance(found, Missing) else found.decode("utf-8", "replace")

    shared = ways(settings)
    who = {"actor": getpass.getuser(), "since": time.time()}
    model, kind = settings.text("model"), settings.text("engine.kind")
    directories = [model] if model.startswith("/") and kind != "oracle" else []
    state_dir = settings.text("inventory.state_dir")

    def open_door(entry: Entry) -> HostDoor:
        return Door(shared.host(entry), settings.project, state_dir, who, directories=directories, fabric=entry.fabric)

    return open_door


def context(settings: Settings) -> Context:
    """Makes the build context of an image where one has to be built."""

    def make(kind: str, base: str) -> bytes:
        from dsctl.flows.imagecontext import build_context

        return build_context(kind, base, settings)

    return make


def registry() -> Registry | None:
    """A registry for this run's images, where this machine has the program."""
    from dsctl.reach.registry import Registry

    return Registry() if Registry.is_possible() else None
