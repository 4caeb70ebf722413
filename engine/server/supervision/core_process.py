"""One core as its parent sees it: a child process, a socket with messages, and the last lines it wrote on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from engine.wire.frames import FrameError, FrameReader, encode
from engine.wire.messages import ToCore, ToServer

_TAIL_BYTES = 4096


class CoreProcess(asyncio.Protocol):
    """Messages go to `on_message` until `dead` is set; its result says why the core is gone."""

    def __init__(self) -> None:
        self.dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[ToServer], None] | None = None
        self.pid = 0
        self._reader: FrameReader[ToServer] = FrameReader(ToServer)
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tail = bytearray()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def spawn(cls, module: str) -> CoreProcess:
        """Start `python -m module --fd N` with its own session, so that a terminal's Ctrl-C reaches only its parent."""
        loop = asyncio.get_running_loop()
        core = cls()
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            core._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                "--fd",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        core.pid = core._process.pid
        core._tasks = [loop.create_task(core._follow_stderr()), loop.create_task(core._follow_exit())]
        await loop.create_connection(lambda: core, sock=ours)
        return core

    @property
    def last_words(self) -> str:
        """The last lines the core wrote on stderr."""
        return self._tail.decode("utf-8", "replace").strip()

    @property
    def is_alive(self) -> bool:
        """Whether nothing has ended it yet."""
        return not self.dead.done()

    def send(self, message: ToCore) -> None:
        """Queue one message; lost without an error when the core is gone (it is replayed then)."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def kill(self, cause: str) -> None:
        """End it at once, also when it is stopped."""
        self._die(cause)

    async def ended(self) -> None:
        """Wait until the process is gone and its stderr is read."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        try:
            messages = self._reader.feed(data)
        except FrameError as error:
            self._die(f"core sent garbage: {error}")
            return
        for message in messages:
            if self.dead.done():
                return
            if self.on_message is not None:
                self.on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol: the core closed its end; its exit status says more, and follows at once or is forced."""
        if not self.dead.done():
            asyncio.get_running_loop().call_later(0.25, self._end_process)

    def _die(self, cause: str) -> None:
        if not self.dead.done():
            self.dead.set_result(cause)
        self._end_process()
        if self._transport is not None:
            self._transport.abort()

    def _end_process(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def _follow_exit(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        self._die(describe_exit(code))

    async def _follow_stderr(self) -> None:
        assert self._process is not None
        stream = self._process.stderr
        assert stream is not None
        while data := await stream.read(4096):
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
            self._tail += data
            del self._tail[:-_TAIL_BYTES]


def describe_exit(code: int) -> str:
    """An exit status in words."""
    return f"core killed by signal {-code}" if code < 0 else f"core exited with code {code}"


def is_stopped(pid: int) -> bool:
    """Whether /proc says that the process is stopped (SIGSTOP, a debugger): no patience will help."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] in (["T"], ["t"])
