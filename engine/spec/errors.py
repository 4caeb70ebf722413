"""The engine's one error tree.

EngineError
├── CheckpointError   a checkpoint that cannot be read: names the file and the tensor      (process exit 2)
├── ConfigError       a setting that cannot work: names the setting and a value that would  (process exit 2)
├── PortTakenError    the listen address is in use                                          (process exit 6)
├── CapacityError     the memory plan does not fit: says by how much and what would         (process exit 6)
└── RequestError      one request that cannot be served: an HTTP status and a code
"""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_object(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients expect it: {"error": {message, type, param, code}}."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class EngineError(Exception):
    """Base of every error the engine raises on purpose; `exit_code` is what a process ends with."""

    exit_code = 1


class CheckpointError(EngineError):
    """A checkpoint is missing, truncated, mismatched or holds NaN; the message names file and tensor."""

    exit_code = 2


class ConfigError(EngineError):
    """A setting is wrong; the message names it and a value that would work."""

    exit_code = 2


class PortTakenError(EngineError):
    """The address to listen on is already in use."""

    exit_code = 6


class CapacityError(EngineError):
    """Weights, cache and workspace do not fit; the message carries the numbers."""

    exit_code = 6


class RequestError(EngineError):
    """One request is refused: `status` is the HTTP status, `code` the machine-readable reason, `param` the field."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_request", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s: float | None = None
