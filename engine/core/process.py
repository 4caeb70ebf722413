"""The life of a core: everything imported, wait for Start, load, loop until told to end."""

from __future__ import annotations

import gc
import logging
import socket

from engine.core.boot import boot
from engine.core.heart import Heart
from engine.core.inbox import Inbox
from engine.core.loop import Loop
from engine.spec.errors import CapacityError, EngineError
from engine.wire.frames import Channel
from engine.wire.messages import Fatal, Start, ToCore

log = logging.getLogger(__name__)


def serve(fd: int) -> int:
    """Serve the API process at the other end of `fd`; returns the exit code. A spare waits here for its Start."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(True)
    channel: Channel[ToCore] = Channel(sock, ToCore)
    messages = channel.receive()
    if not messages or not isinstance(messages[0], Start):
        return 0  # the API process ended, or told a spare to
    try:
        return _work(channel, messages[0], messages[1:])
    except OSError as error:
        log.info("the API process is gone: %s", error)
        return 0


def _work(channel: Channel[ToCore], start: Start, early: list[ToCore]) -> int:
    """Load and loop, with heart and inbox beside."""
    heart = Heart(channel, start.epoch)
    inbox = Inbox(channel, early)
    try:
        booted = boot(start)
    except (EngineError, MemoryError) as error:
        code = error.exit_code if isinstance(error, EngineError) else CapacityError.exit_code
        log.warning("cannot serve: %s", error)
        channel.send(Fatal(code, type(error).__name__, str(error) or "no memory left while loading"))
        return code
    loop = Loop(booted.scheduler, booted.runner, inbox, channel.send)
    gc.collect()
    gc.freeze()  # what was loaded stays: later collections need not walk it
    channel.send(booted.ready)
    heart.loop = loop
    loop.run()
    return 0
