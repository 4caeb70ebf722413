"""One request of a load worker from its first byte to the end of its stream, read as it arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import gevent
import msgspec
from geventhttpclient.response import HTTPParseError, HTTPResponse

from dsctl.bench.answer import Answer
from dsctl.bench.connection import Connection, Connections, reason
from dsctl.bench.records import Status

READ = 16_384  # at most so many bytes at once; recv returns with what is there, it never waits for more
ERROR_BYTES = 4096
STALE_S = 0.1  # a connection that ends within this time after a request was sent on it had ended before


class _SilentError(Exception):
    """The connection ended without a byte of an answer."""


class _StaleError(Exception):
    """The server closed an idle connection at the very moment at which a request was sent on it."""


class Abandoned(BaseException):
    """Ends an exchange from outside: the drain's time is over."""


@dataclass(slots=True)
class Exchange:
    """What happened to one request; times on the machine's monotonic clock."""

    answer: Answer
    status: Status = "unsent"
    http: int | None = None
    error: str = ""
    sent: float | None = None
    connected_in: float | None = None
    headers: float | None = None
    closed: float | None = None
    resent: bool = False  # its first connection was one that the server was just closing


class _Reply(HTTPResponse):
    """Parses the answer's head and framing; the body goes to `body`, not to a buffer."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.body: list[bytes] = []

    def _on_body(self, buf: bytearray) -> None:
        self.body.append(bytes(buf))


@dataclass(slots=True)
class Sender:
    """Sends requests of one worker. `head` is the request's head up to its length."""

    connections: Connections
    head: bytes
    timeout: float
    sends_done: bool
    is_stopping: bool = field(default=False)

    def send(self, body: bytes, done: Exchange, leave_after: int | None = None) -> None:
        """Send one request and read its answer into `done`; nothing is raised, no prompt is computed twice."""
        alarm = gevent.Timeout(self.timeout)
        alarm.start()
        connection: Connection | None = None
        try:
            done.sent = perf_counter()
            connection = self.connections.take()
            try:
                is_clean = self._ask(connection, body, done, leave_after)
            except _StaleError:
                connection.close()
                done.resent = True
                connection = self.connections.take(is_new=True)
                is_clean = self._ask(connection, body, done, leave_after)
            if is_clean:
                self.connections.give_back(connection)
                connection = None
        except gevent.Timeout as late:
            if late is not alarm:
                raise
            done.status, done.error = "timeout", f"longer than {self.timeout:g} s"
        except Abandoned:
            done.status, done.error = "censored", "the run ended before the answer did"
        except gevent.GreenletExit:  # locust ends its users so: by its page, or at the end of its own time
            done.status, done.error = "censored", "its user was stopped before the answer ended"
            raise
        except (OSError, HTTPParseError) as error:
            done.status = "connect_error" if done.headers is None else "cut"
            done.error = reason(error)
        finally:
            alarm.close()
            if connection is not None:
                connection.close()
            if done.closed is None:
                done.closed = perf_counter()

    def _ask(self, connection: Connection, body: bytes, done: Exchange, leave_after: int | None) -> bool:
        """Send and read; True when the connection may be used again.

        _StaleError: the connection was open from before, and ended at once without a byte. Servers close connections
        that were idle or served long enough, and a request may cross that: sending it again is no second prompt, and
        any client does. A server that fails is told apart: it answers something, or takes its time, or is gone.
        """
        done.connected_in = connection.made_in
        began = perf_counter()
        try:
            connection.socket.sendall(b"%b%d\r\n\r\n%b" % (self.head, len(body), body))
            return self._read(connection, done, leave_after)
        except _SilentError as silent:
            if connection.made_in is None and perf_counter() - began < STALE_S:
                raise _StaleError from silent
            done.status, done.error = "connect_error", str(silent)
            return False

    def _read(self, connection: Connection, done: Exchange, leave_after: int | None) -> bool:
        """Read to the end; True when the connection may be used again."""
        reply, answer, recv = _Reply(), done.answer, connection.socket.recv
        wrong = b""
        data = _first(connection)
        while True:
            now = perf_counter()
            reply.feed(data)
            if done.headers is None and reply.headers_complete:
                done.headers, done.http = now, reply.get_code()
            if reply.body:
                if done.http == 200:
                    for part in reply.body:
                        answer.feed(part, now)
                elif len(wrong) < ERROR_BYTES:
                    wrong += b"".join(reply.body)
                reply.body.clear()
            if leave_after is not None and answer.chunks >= leave_after:
                done.status, done.closed = "left", now
                return False
            if reply.message_complete or not data:
                break
            data = recv(READ)
        done.closed = now
        if done.headers is None:
            done.status, done.error = "connect_error", "the connection ended before the answer began"
            return False
        answer.end(now)
        self._conclude(done, wrong, is_whole=reply.message_complete)
        return reply.message_complete and not reply.should_close()

    def _conclude(self, done: Exchange, wrong: bytes, *, is_whole: bool) -> None:
        """What the ended stream was."""
        answer = done.answer
        if done.http != 200:
            done.status, done.error = "http_error", f"{done.http}: {told(wrong)}"
        elif answer.error:
            done.status, done.error = "stream_error", answer.error
        elif answer.malformed:
            done.status, done.error = "malformed", answer.malformed
        elif not (answer.done or (is_whole and answer.finish is not None and not self.sends_done)):
            if answer.chunks or answer.usage or not is_whole or answer.finish:
                done.status, done.error = "cut", "the stream ended before it was done"
            else:
                done.status, done.error = "malformed", "no event in the answer"
        elif not answer.chunks:
            done.status, done.error = "empty", "not one token"
        else:
            done.status = "ok"


def _first(connection: Connection) -> bytes:
    """The first bytes of an answer; _SilentError when the connection ends without one."""
    try:
        data = connection.socket.recv(READ)
    except ConnectionError as error:
        raise _SilentError(reason(error)) from error
    if not data:
        raise _SilentError("the connection ended before the answer began")
    return data


def told(body: bytes) -> str:
    """The message of an error's body, shortened."""
    try:
        error = msgspec.json.decode(body, type=dict[str, dict[str, object]])["error"]
        return f"{error.get('code') or error.get('type')}: {error.get('message')}"[:300]
    except (msgspec.MsgspecError, KeyError):
        return body[:200].decode("utf-8", "replace")


def head(connections: Connections, path: str, key: str) -> bytes:
    """The head of every request of a run, up to the number of its body's bytes."""
    lines = [
        f"POST {connections.prefix}{path} HTTP/1.1",
        f"host: {connections.authority}",
        "accept: text/event-stream",
        "accept-encoding: identity",
        "content-type: application/json",
        *([f"authorization: Bearer {key}"] if key else []),
        "content-length: ",
    ]
    return "\r\n".join(lines).encode("latin-1")
