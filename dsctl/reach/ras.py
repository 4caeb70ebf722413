"""The door to NCCL's RAS server: one question over TCP to a running job, one JSON answer."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Protocol, cast

from dsctl.base.missing import Missing


class Link(Protocol):
    """What is needed of a socket; a channel of SSH has it too."""

    def sendall(self, data: bytes, /) -> object:
        """Sends all of it."""
        ...

    def recv(self, size: int, /) -> bytes:
        """What came, empty at the end; TimeoutError when nothing did."""
        ...

    def settimeout(self, seconds: float, /) -> None:
        """How long `recv` waits."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


PORT = 28028
HELLO = b"CLIENT PROTOCOL 2\n"
MOST_BYTES = 64 << 20
MOST_LINE = 4096


def ask(host: str = "127.0.0.1", port: int = PORT, deadline_s: float = 20.0) -> dict[str, Any] | Missing:
    """What the job's ranks say of themselves. Missing with the reason where nobody answers, in time or in JSON."""
    ends = time.monotonic() + deadline_s
    try:
        with socket.create_connection((host, port), timeout=min(3.0, deadline_s)) as link:
            return _talk(link, ends)
    except OSError as problem:
        return Missing(f"NCCL's RAS server at {host}:{port}: {problem}")


def ask_through(link: Link, deadline_s: float = 20.0) -> dict[str, Any] | Missing:
    """The same over a connection that is open already (a channel of SSH); it is closed."""
    try:
        return _talk(link, time.monotonic() + deadline_s)
    except (OSError, EOFError) as problem:
        return Missing(f"NCCL's RAS server: {problem}")
    finally:
        link.close()


def _talk(link: Link, ends: float) -> dict[str, Any] | Missing:
    held = b""
    for words in (HELLO, b"TIMEOUT 5\n", b"SET FORMAT json\n"):
        answer, held = _line(link, words, held, ends)
        if answer is None:
            return Missing("NCCL's RAS server did not answer in time")
        if answer.startswith("ERROR") or not answer:
            asked = words.decode().strip()
            return Missing(f"NCCL's RAS server refused {asked!r}: {answer or 'it closed'}; it needs NCCL 2.30 or newer")
    link.sendall(b"VERBOSE STATUS\n")
    data = bytearray(held)
    while len(data) < MOST_BYTES:
        left = ends - time.monotonic()
        if left <= 0:
            return Missing("NCCL's RAS server did not finish its answer in time")
        link.settimeout(left)
        try:
            block = link.recv(1 << 16)
        except TimeoutError:
            return Missing("NCCL's RAS server did not finish its answer in time")
        if not block:
            return _read(bytes(data))
        data += block
    return Missing(f"NCCL's RAS server sent more than {MOST_BYTES} bytes")


def _line(link: Link, words: bytes, held: bytes, ends: float) -> tuple[str | None, bytes]:
    """(one line of the answer, what came behind it); None when the deadline passed."""
    link.sendall(words)
    while b"\n" not in held and len(held) < MOST_LINE:
        left = ends - time.monotonic()
        if left <= 0:
            return None, held
        link.settimeout(left)
        try:
            block = link.recv(MOST_LINE)
        except TimeoutError:
            return None, held
        if not block:
            return "", held
        held += block
    line, _, rest = held.partition(b"\n")
    return line.decode("utf-8", "replace").strip(), rest


def _read(data: bytes) -> dict[str, Any] | Missing:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as problem:
        return Missing(f"NCCL's RAS server answered no JSON: {problem}")
    return cast("dict[str, Any]", value) if isinstance(value, dict) else Missing("NCCL's RAS server answered no object")
