"""What a request must pass before a replica hears of it, cheapest checks first: path, method, host, key, size, room."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import time

from dsctl.gateway.asgi import Receive, Scope
from dsctl.gateway.call import ROUTES, Call
from dsctl.gateway.desk import Desk
from dsctl.gateway.keys import ADMIN, ANYONE, bearer
from dsctl.gateway.refusal import ClientGoneError, RefusedError
from dsctl.gateway.settings import Settings

GET_PATHS = frozenset({"/v1/models", "/health", "/ready", "/metrics", "/version"})
MODEL_PREFIX = "/v1/models/"  # followed by an id, which may hold slashes
OPEN_PATHS = frozenset({"/health", "/ready"})  # answered without a key
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_DEADLINE_MS = 24 * 3600 * 1000
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def header_map(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name; of several with one name the first counts (Host and the like are refused elsewhere)."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    return headers


def request_id(headers: dict[bytes, bytes]) -> str:
    """The client's X-Request-Id if it is harmless, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def check_route(scope: Scope) -> None:
    """Only listed paths exist, each with one method."""
    path = scope["path"]
    wanted = "POST" if path in ROUTES else "GET" if path in GET_PATHS or path.startswith(MODEL_PREFIX) else ""
    if not wanted:
        raise RefusedError(404, "not_found", "there is nothing at this path")
    if scope["method"] not in (wanted, "HEAD" if wanted == "GET" else wanted):
        raise RefusedError(405, "method_not_allowed", f"this path wants {wanted}")


def check_host(scope: Scope, settings: Settings) -> None:
    """Exactly one well-formed Host that names this gateway; anything else may be a trick on a browser or a proxy."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        raise RefusedError(400, "invalid_host", "the request must carry exactly one valid Host header")
    name = match.group(1).decode().lower()
    if name not in LOOPBACK_NAMES and name != settings.host.lower() and name not in settings.names:
        raise RefusedError(421, "unknown_host", "this gateway does not answer to that Host; name it with --allow-host")


def is_loopback(scope: Scope) -> bool:
    """The peer is on this machine: it has a loopback address, or the very address it reached us by."""
    client, server = scope.get("client"), scope.get("server")
    try:
        if client and server and client[0] == server[0]:
            return True
        return bool(client) and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def identify(headers: dict[bytes, bytes], desk: Desk) -> str:
    """Who asks: the key's id. Nothing else a client sends is an identity."""
    if headers.get(b"x-dsctl-admin") and desk.secrets.is_admin(headers[b"x-dsctl-admin"]):
        return ADMIN
    if not desk.secrets.wants_key:
        return ANYONE
    key = desk.secrets.key_of(bearer(headers.get(b"authorization", b"")))
    if key is None:
        raise RefusedError(401, "invalid_api_key", "send a valid key as Authorization: Bearer …")
    return key


def check_room(headers: dict[bytes, bytes], desk: Desk) -> None:
    """Refuse on the headers alone what will not be served: too large, or too many."""
    length = headers.get(b"content-length")
    if length is not None and (not length.isdigit() or int(length) > desk.settings.max_body):
        refusal = RefusedError(413, "body_too_large", f"the body may have {desk.settings.max_body} bytes")
        refusal.close = True
        raise refusal
    if desk.is_draining:
        raise RefusedError(503, "gateway_stopping", "the gateway is stopping; send the request again", retry_after=1)
    if desk.admitted >= desk.settings.max_inflight or desk.body_bytes > desk.settings.max_bodies:
        desk.metrics.shed["inflight_limit"] += 1
        raise RefusedError(503, "overloaded", "too many requests are being served", retry_after=desk.retry_after())


async def read_body(receive: Receive, settings: Settings) -> bytes:
    """The whole body; raises RefusedError 413 as soon as it is too large and 408 when it comes too slowly."""
    message = await receive()
    if not message.get("more_body"):
        return _piece(message, settings, 0)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_deadline_s):
            while True:
                part = _piece(message, settings, size)
                size += len(part)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
    except TimeoutError:
        refusal = RefusedError(408, "body_timeout", f"the body did not arrive within {settings.body_deadline_s:.0f} s")
        refusal.close = True
        raise refusal from None


def _piece(message: dict[str, object], settings: Settings, size: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    part = message.get("body", b"")
    assert isinstance(part, bytes)
    if size + len(part) > settings.max_body:
        refusal = RefusedError(413, "body_too_large", f"the body may have {settings.max_body} bytes")
        refusal.close = True
        raise refusal
    return part


def shape_call(call: Call, headers: dict[bytes, bytes], desk: Desk) -> None:
    """Take gate and deadline from the headers."""
    gate = headers.get(b"x-dsctl-gate")
    if gate is not None:
        if not desk.secrets.is_admin(headers.get(b"x-dsctl-admin", b"")):
            raise RefusedError(403, "gate_forbidden", "x-dsctl-gate wants the admin token in x-dsctl-admin")
        call.gate = gate.decode("latin-1")
        if call.gate not in desk.fleet.replicas:
            raise RefusedError(404, "unknown_replica", "no replica of that name is in the table")
    deadline = headers.get(b"x-dsctl-deadline-ms")
    if deadline is not None:
        if not (deadline.isdigit() and len(deadline) < 10 and 0 < int(deadline) <= MAX_DEADLINE_MS):
            raise RefusedError(400, "invalid_deadline", "x-dsctl-deadline-ms must be a whole number from 1 to 86400000")
        call.deadline = time.monotonic() + int(deadline) / 1000
