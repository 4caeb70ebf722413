"""The body of a request as it comes, and what to do with the rest of one that is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from dsctl.gateway.asgi import Receive

MAX_SWALLOWED = 64 << 20  # bytes
SWALLOW_S = 5.0


class Upload:
    """One body. `is_whole` once its last piece was taken, or the client has gone."""

    def __init__(self, receive: Receive) -> None:
        self.is_whole = False
        self._receive = receive

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        message = await self._receive()
        self.is_whole = not message.get("more_body", False)
        return message

    async def swallow(self) -> None:
        """Take what is left and forget it: a client that still sends when its connection closes loses the answer."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(SWALLOW_S):
                while not self.is_whole and size < MAX_SWALLOWED:
                    size += len((await self.receive()).get("body", b""))
