"""The three words of raw ASGI that the gateway uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class ClientConnection(Protocol):
    """The listener's end of a client's connection, in scope["extensions"]["dsctl.connection"]."""

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """Call back at once when the client closes; None ends the watch."""
        ...

    def cut(self) -> None:
        """Close without waiting for what is unsent."""
        ...


Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
