"""Length-prefixed msgpack frames on a stream socket: 4 bytes little-endian length, then one message."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
_HEADER = struct.Struct("<I")
MAX_FRAME = 256 << 20  # a length above this is a corrupt stream, not a message


class FrameError(Exception):
    """The stream is not ours: an impossible length or an undecodable message."""


def encode(message: msgspec.Struct) -> bytes:
    """One message as the bytes of one frame."""
    body = msgspec.msgpack.encode(message)
    return _HEADER.pack(len(body)) + body


class FrameReader(Generic[T]):
    """Feed it bytes, take whole messages; keeps what is incomplete."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """All messages completed by `data`, in order. Raises FrameError on a corrupt stream."""
        self._buffer += data
        messages: list[T] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise FrameError(f"frame of {length} bytes announced; the limit is {MAX_FRAME}")
            end = start + _HEADER.size + length
            if end > len(self._buffer):
                break
            try:
                messages.append(self._decode(memoryview(self._buffer)[start + _HEADER.size : end].tobytes()))
            except msgspec.DecodeError as error:
                raise FrameError(f"a frame of {length} bytes is not a known message: {error}") from error
            start = end
        del self._buffer[:start]
        return messages


class Channel(Generic[T]):
    """Blocking end of the socket, safe to send on from several threads (the core's side)."""

    def __init__(self, sock: socket.socket, kind: Any) -> None:
        self._sock = sock
        self._reader: FrameReader[T] = FrameReader(kind)
        self._lock = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        """Send one message whole; raises OSError when the other end is gone."""
        data = encode(message)
        with self._lock:
            self._sock.sendall(data)

    def receive(self) -> list[T]:
        """Wait for at least one message; an empty list means the other end closed."""
        while True:
            data = self._sock.recv(1 << 16)
            if not data:
                return []
            messages = self._reader.feed(data)
            if messages:
                return messages
