"""One connection to one host: channels of every kind on it, a bound on commands at once, made anew when it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN
from paramiko.message import Message

from dsctl.base.errors import DeadlineError
from dsctl.base.units import seconds
from dsctl.reach.ssh.command import LostError, Result, Wrapped, wrap
from dsctl.reach.ssh.login import UnreachableError, connect
from dsctl.reach.ssh.route import Route

MOST_COMMANDS = 8  # at once on one connection; sshd's MaxSessions is 10
CHUNK = 32768
SESSION_WAIT_S = 15.0
LINGER_S = 1.0  # for the last bytes of a command that has ended


class Link:
    """The connection to one host. Threads may share it."""

    def __init__(self, route: Route, through: Link | None = None) -> None:
        self.route = route
        self._through = through
        self._transport: paramiko.Transport | None = None
        self._lock = threading.Lock()
        self.is_pinned = False  # True while it carries a lock: what comes after a break must not be done any more
        self.sessions = threading.BoundedSemaphore(MOST_COMMANDS)

    def transport(self) -> paramiko.Transport:
        """The live connection; a broken one is replaced."""
        with self._lock:
            if self._transport is None or not self._transport.is_active():
                if self.is_pinned:
                    raise self._lost(EOFError("it carried the lock, so it is not made anew"))
                before = self._through.transport() if self._through else None
                if self._transport is not None:
                    self._transport.close()
                self._transport = connect(self.route, before)
            return self._transport

    def is_up(self) -> bool:
        """True while a connection stands."""
        return self._transport is not None and self._transport.is_active()

    def close(self) -> None:
        """Ends the connection and everything on it."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    def session(self, line: str, deadline_s: float) -> paramiko.Channel:
        """A channel on which one command line runs."""
        transport = self.transport()
        try:
            channel = self._session(transport, deadline_s)
            channel.settimeout(deadline_s)
            channel.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error
        return channel

    def _session(self, transport: paramiko.Transport, deadline_s: float) -> paramiko.Channel:
        """sshd counts a session until its last process is gone, so a refusal is only a reason to wait a little."""
        end = time.monotonic() + min(deadline_s, SESSION_WAIT_S)
        while True:
            try:
                return transport.open_session(timeout=deadline_s)
            except paramiko.ChannelException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def unix_socket(self, path: str, deadline_s: float = 10.0) -> paramiko.Channel:
        """A channel to a unix socket on the host (direct-streamlocal); paramiko.ChannelException when sshd refuses."""
        return open_streamlocal(self.transport(), path, deadline_s)

    def tcp(self, target: tuple[str, int], deadline_s: float = 10.0) -> paramiko.Channel:
        """A channel to a TCP port as the host sees it; LostError when nothing takes it there."""
        try:
            return self.transport().open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=deadline_s)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(error, f"port {target[1]}") from error

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60.0, again: bool = False) -> Result:
        """Runs a command to its end.

        DeadlineError when it takes longer (its process group is then told to end); LostError when the connection
        breaks before the proof of its end came. `again`: it only looks, so a lost one is simply repeated once.
        """
        try:
            return self._run(argv, stdin, deadline_s)
        except LostError:
            if not again:
                raise
            return self._run(argv, stdin, deadline_s)

    def _run(self, argv: Sequence[str], stdin: bytes, deadline_s: float) -> Result:
        wrapped = wrap(argv)
        end = time.monotonic() + deadline_s
        with self.sessions:
            channel = self.session(wrapped.line, deadline_s)
            try:
                out, err, is_whole = _exchange(channel, stdin, end)
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._lost(error) from error
            finally:
                channel.close()
        if not is_whole:
            self._end_group(wrapped, err)
            raise DeadlineError(
                f"{self.route.name}: `{argv[0]}` did not end within {seconds(deadline_s)}",
                why=wrapped.clean(err)[-2000:].strip(), hint="a larger --timeout, or look at the host",
            )  # fmt: skip
        result = wrapped.result(out, err)
        if result is None:
            raise self._lost(EOFError("the connection broke, or the command's shell was killed"), argv[0])
        return result

    def _end_group(self, wrapped: Wrapped, err: str) -> None:
        """Asks what still runs to end; as it may belong to root, sudo is tried too."""
        group = wrapped.group(err)
        if group is None:
            return
        line = f"kill -TERM -{group} 2>/dev/null || sudo -n kill -TERM -{group}"
        with suppress(LostError, UnreachableError):
            channel = self.session(f"sh -c '{line}'", 5.0)
            channel.status_event.wait(5.0)
            channel.close()

    def _lost(self, error: BaseException, what: str = "") -> LostError:
        during = f" while `{what}` ran" if what else ""
        return LostError(f"{self.route.name}: the connection was lost{during}", why=str(error) or type(error).__name__,
                         hint="run the same command again; it looks at what was done and goes on")  # fmt: skip


def _exchange(channel: paramiko.Channel, stdin: bytes, end: float) -> tuple[bytes, str, bool]:
    """Writes stdin, reads both outputs together (either alone could fill the window); False at the end: too late."""
    pending, is_open = memoryview(stdin), True
    out, err, ended_at = bytearray(), bytearray(), 0.0
    while True:
        now = time.monotonic()
        if now > end:
            return bytes(out), err.decode("utf-8", "replace"), False
        if is_open:
            pending, is_open = _feed(channel, pending)
        err += _errors(channel)
        data = _take(channel, min(0.02 if is_open else 0.1, end - now))
        out += data or b""
        if data:
            continue
        if channel.exit_status_ready():
            ended_at = ended_at or now
            if data == b"" or now - ended_at > LINGER_S:  # a child in the background may hold the output open
                return bytes(out), (err + _errors(channel)).decode("utf-8", "replace"), True
        elif data == b"":
            if channel.closed or not channel.get_transport().is_active():
                return bytes(out), (err + _errors(channel)).decode("utf-8", "replace"), True
            channel.status_event.wait(0.05)  # it closed its output and goes on


def _feed(channel: paramiko.Channel, pending: memoryview) -> tuple[memoryview, bool]:
    """Sends what the window takes now and closes stdin behind the last byte: (what is left, whether it is open)."""
    try:
        while pending and channel.send_ready():
            pending = pending[channel.send(pending[:CHUNK].tobytes()) :]
        if not pending:
            channel.shutdown_write()
    except OSError:
        return pending, False  # the command does not read any more; how it ends decides
    return pending, bool(pending)


def _errors(channel: paramiko.Channel) -> bytes:
    told = b""
    while channel.recv_stderr_ready():
        told += channel.recv_stderr(CHUNK)
    return told


def _take(channel: paramiko.Channel, wait_s: float) -> bytes | None:
    """Output that is there within `wait_s`; b"" at its end, None when there was none yet."""
    channel.settimeout(max(wait_s, 0.001))
    try:
        return channel.recv(CHUNK)
    except TimeoutError:
        return None


def open_streamlocal(transport: paramiko.Transport, path: str, deadline_s: float) -> paramiko.Channel:
    """OpenSSH's `direct-streamlocal@openssh.com` channel (PROTOCOL, section 2.4), which paramiko does not know."""
    inner: Any = transport
    if not inner.active:
        raise paramiko.SSHException("the connection is closed")
    with inner.lock:
        window, packet = inner._sanitize_window_size(None), inner._sanitize_packet_size(None)
        number = inner._next_channel()
        message = Message()
        message.add_byte(cMSG_CHANNEL_OPEN)
        message.add_string("direct-streamlocal@openssh.com")
        for value in (number, window, packet):
            message.add_int(value)
        message.add_string(path)
        message.add_string("")  # reserved
        message.add_int(0)  # reserved
        channel: Any = paramiko.Channel(number)
        inner._channels.put(number, channel)
        inner.channel_events[number] = event = threading.Event()
        inner.channels_seen[number] = True
        channel._set_transport(transport)
        channel._set_window(window, packet)
    inner._send_user_message(message)
    _await(event, lambda: bool(inner.active), deadline_s)
    opened = inner._channels.get(number)
    if opened is None:
        raise inner.get_exception() or paramiko.SSHException("the channel was not opened")
    return opened


def _await(event: threading.Event, is_active: Callable[[], bool], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not event.wait(0.1):
        if not is_active():
            raise paramiko.SSHException("the connection broke")
        if time.monotonic() > end:
            raise paramiko.SSHException("no answer to the opening of a channel")
