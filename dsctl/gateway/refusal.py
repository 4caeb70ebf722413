"""The one way the gateway says no: an HTTP status, a machine-readable code and a sentence."""

from __future__ import annotations

import msgspec

from dsctl.gateway.asgi import Headers
from engine.spec.errors import error_object


class RefusedError(Exception):
    """A request that is not served; `retry_after` (seconds) goes out as a header when it is set."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.raw: bytes | None = None  # a replica's own error body, passed on as it is
        self.close = False  # the connection is not fit for another request

    def body(self) -> bytes:
        """The error object in OpenAI's shape."""
        if self.raw is not None:
            return self.raw
        return msgspec.json.encode(error_object(self.status, self.code, self.message))

    def headers(self) -> Headers:
        """Headers of the error answer."""
        headers: Headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
            headers.append((b"retry-after-ms", b"%d" % (self.retry_after * 1000)))
        elif self.status in (400, 401, 403, 404, 405, 413, 421):
            headers.append((b"x-should-retry", b"false"))
        if self.close:
            headers.append((b"connection", b"close"))
        return headers


class ClientGoneError(Exception):
    """The client closed its connection, or was cut for not reading."""
