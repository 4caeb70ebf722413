"""The heartbeat: a thread that says every 50 ms where the loop is, from before loading on."""

from __future__ import annotations

import os
import threading
import time

from engine.core import machine
from engine.core.loop import Loop
from engine.wire.frames import Channel
from engine.wire.messages import Beat, ToCore

PERIOD_S = 0.05
_RSS_EVERY = 20  # beats between two looks at our own memory


class Heart:
    """Beats until the process ends. `loop` is None while the model loads."""

    def __init__(self, channel: Channel[ToCore], epoch: int) -> None:
        self.loop: Loop | None = None
        self._channel = channel
        self._epoch = epoch
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def _run(self) -> None:
        number, rss, due = 0, 0, time.monotonic()
        while True:
            if number % _RSS_EVERY == 0:
                rss = machine.resident_bytes()
            number += 1
            try:
                self._channel.send(self._beat(number, rss))
            except OSError:
                os._exit(0)  # nobody is left to compute for
            due = max(due + PERIOD_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _beat(self, number: int, rss: int) -> Beat:
        if self.loop is not None:
            return self.loop.beat(self._epoch, number, rss)
        return Beat(self._epoch, number, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, rss)
