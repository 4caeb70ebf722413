"""Messages from the API process, read by a thread of its own; when the other end closes, the process ends."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time

from engine.wire.frames import Channel, FrameError
from engine.wire.messages import Quit, ToCore

log = logging.getLogger(__name__)

GRACE_S = 1.0  # after Quit the step in progress may end; a stuck one is cut off


class Inbox:
    """What has been read and not yet taken."""

    def __init__(self, channel: Channel[ToCore], first: list[ToCore]) -> None:
        self._channel = channel
        self._queue: queue.SimpleQueue[ToCore] = queue.SimpleQueue()
        for message in first:
            self._queue.put(message)
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def take(self, timeout_s: float | None) -> list[ToCore]:
        """All messages there are; with none, wait up to timeout_s (None: for ever) for the first."""
        messages: list[ToCore] = []
        try:
            messages.append(self._queue.get(block=timeout_s != 0.0, timeout=timeout_s or None))
            while True:
                messages.append(self._queue.get_nowait())
        except queue.Empty:
            return messages

    def _read(self) -> None:
        try:
            while messages := self._channel.receive():
                for message in messages:
                    self._queue.put(message)
                if any(isinstance(message, Quit) for message in messages):
                    time.sleep(GRACE_S)
                    break
        except (OSError, FrameError) as error:
            log.warning("the socket to the API process failed: %s", error)
        os._exit(0)  # the main thread may be deep in a step that nobody waits for
