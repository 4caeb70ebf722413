"""The gateway's own pages: health, models, version, metrics, and the admin's status and drain."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import dsctl
from dsctl.gateway.admission import MODEL_PREFIX, is_loopback
from dsctl.gateway.asgi import Scope, Send
from dsctl.gateway.desk import Desk
from dsctl.gateway.keys import bearer
from dsctl.gateway.refusal import RefusedError
from dsctl.gateway.replica import Replica, request_head
from dsctl.gateway.settings import CONNECT_S, MAX_LINE

MODELS_S = 2.0
DRAIN = "/-/drain/"


async def send_json(send: Send, value: Any, status: int = 200) -> None:
    """Answer with an object."""
    await send_bytes(send, msgspec.json.encode(value), b"application/json", status)


async def send_bytes(send: Send, body: bytes, content_type: bytes, status: int = 200) -> None:
    """Answer with bytes."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def open_page(desk: Desk, scope: Scope, send: Send) -> None:
    """/health: the gateway lives; /ready: it can serve."""
    if scope["path"] == "/health":
        await send_json(send, {"status": "ok"})
        return
    ready = not desk.is_draining and any(replica.takes_work for replica in desk.fleet.replicas.values())
    await send_json(send, {"status": "ready" if ready else "not ready"}, 200 if ready else 503)


async def page(desk: Desk, scope: Scope, send: Send) -> None:
    """/v1/models, /v1/models/<id>, /version, /metrics."""
    if scope["path"] == "/metrics":
        await send_bytes(send, desk.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")
    elif scope["path"] == "/version":
        ids = sorted({replica.numerics[0] for replica in desk.fleet.replicas.values() if replica.numerics[0]})
        await send_json(send, {"version": dsctl.__version__, "numerics_ids": ids})
    elif scope["path"].startswith(MODEL_PREFIX):
        await send_json(send, _one_model(await _models(desk), scope["path"].removeprefix(MODEL_PREFIX)))
    else:
        await send_bytes(send, await _models(desk), b"application/json")


def _one_model(listed: bytes, asked: str) -> dict[str, Any]:
    entries: list[dict[str, Any]] = msgspec.json.decode(listed)["data"]
    for entry in entries:
        if entry["id"] == asked:
            return entry
    names = ", ".join(repr(entry["id"]) for entry in entries)
    raise RefusedError(404, "model_not_found", f"the model {asked[:128]!r} is not served here; there is {names}")


class _Page:
    """The receiver of a small answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._body = b""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status came."""
        self._status = status

    def on_body(self, data: bytes) -> None:
        """A piece came."""
        self._body += data
        if len(self._body) > MAX_LINE:
            self.on_broken("too long")

    def on_complete(self) -> None:
        """Whole."""
        if not self.done.done():
            self.done.set_result(self._body if self._status == 200 else None)

    def on_broken(self, cause: str) -> None:
        """Broken."""
        if not self.done.done():
            self.done.set_result(None)


async def _models(desk: Desk) -> bytes:
    """A ready replica's own list of models."""
    for replica in [replica for replica in desk.fleet.replicas.values() if replica.takes_work]:
        body = await _fetch(replica, "/v1/models", desk.token)
        if body is not None:
            return body
    raise RefusedError(503, "no_replica", "no replica is ready", retry_after=desk.retry_after())


async def _fetch(replica: Replica, path: str, token: str) -> bytes | None:
    waiting = _Page()
    connection = None
    try:
        connection = replica.pool.take() or await replica.pool.connect(CONNECT_S)
        connection.send(waiting, request_head("GET", path, replica.host, token))
        async with asyncio.timeout(MODELS_S):
            return await waiting.done
    except (OSError, TimeoutError):
        if connection is not None:
            connection.abort()
        return None


async def admin(desk: Desk, scope: Scope, headers: dict[bytes, bytes], send: Send) -> None:
    """/-/status and /-/drain/<name>: from this machine, with the admin token."""
    if not is_loopback(scope):
        raise RefusedError(404, "not_found", "there is nothing at this path")
    if not desk.secrets.is_admin(bearer(headers.get(b"authorization", b""))):
        raise RefusedError(401, "admin_token", "this path wants the admin token as Authorization: Bearer …")
    path, method = scope["path"], scope["method"]
    if path == "/-/status" and method == "GET":
        await send_json(send, status(desk))
    elif path.startswith(DRAIN) and method == "POST":
        replica = desk.fleet.replicas.get(path[len(DRAIN) :])
        if replica is None:
            raise RefusedError(404, "unknown_replica", "no replica of that name is in the table")
        replica.is_drained = True
        await send_json(send, _row(replica))
    else:
        raise RefusedError(404, "not_found", "there is nothing at this path")


def status(desk: Desk) -> dict[str, Any]:
    """What the control path waits on."""
    return {
        "generation": desk.table.generation,
        "inflight": len(desk.sessions),
        "held": len(desk.held),
        "draining": desk.is_draining,
        "replicas": [_row(replica) for replica in desk.fleet.replicas.values()],
    }


def _row(replica: Replica) -> dict[str, Any]:
    line = replica.health.progress
    return {
        "name": replica.row.name,
        "url": replica.row.url,
        "state": "draining" if replica.is_drained else replica.row.state,
        "health": replica.shown_state,
        "cause": replica.health.cause,
        "inflight": replica.inflight,
        "numerics_id": replica.numerics[0],
        "exact": replica.numerics[1],
        "weight": replica.row.weight,
        "spec_hash": replica.row.spec_hash,
        "share": replica.row.share,
        "offered": replica.split.offered,
        "taken": replica.split.taken,
        "tally": replica.tally,
        "gate_tally": replica.gate_tally,
        "deaths": replica.deaths,
        "restarts": line.restarts if line is not None else 0,
    }
