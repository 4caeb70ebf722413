"""Errors as OpenAI clients expect them, and the headers that go with them."""

from __future__ import annotations

import math
from typing import Any

from engine.spec.attempt import Failure
from engine.spec.errors import RequestError, error_object


def error_body(error: RequestError) -> dict[str, Any]:
    """The body for a refused request."""
    return error_object(error.status, error.code, str(error), error.param)


def failure_body(failure: Failure) -> dict[str, Any]:
    """The body, or the frame in a stream, for a request that failed after it was accepted."""
    return error_object(failure.status, failure.code, failure.message)


def error_headers(error: RequestError) -> list[tuple[bytes, bytes]]:
    """Retry-After where coming back makes sense; WWW-Authenticate where a token is missing."""
    headers: list[tuple[bytes, bytes]] = []
    if error.status in (429, 503):
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s or 1.0))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))
    return headers


def as_request_error(failure: Failure, retry_after_s: float | None) -> RequestError:
    """A failure before the first byte is an ordinary refusal."""
    error = RequestError(failure.message, status=failure.status, code=failure.code)
    error.retry_after_s = retry_after_s
    return error
