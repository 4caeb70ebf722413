"""The ASGI application: who may, which route, and one place where errors become answers."""

from __future__ import annotations

import hmac
import logging
import re
import secrets

from engine.server.errors import error_body, error_headers
from engine.server.exchange import ClientGoneError, Exchange, Receive, Scope, Send
from engine.server.routes import INTERNAL_PATHS, MODEL_PREFIX, OPEN_PATHS, ROUTES, Handler, model
from engine.server.service import Service
from engine.spec.errors import RequestError, error_object

log = logging.getLogger("engine.server")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class App:
    """One per process. Authorises on the path alone: no header can change which route is meant."""

    def __init__(self, service: Service, token: str | None) -> None:
        self._service = service
        self._token = token.encode("ascii") if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        exchange.request_id = _request_id(exchange)
        try:
            await self._handle(exchange)
        except ClientGoneError:
            exchange.cut()
        except RequestError as error:
            await self._refuse(exchange, error)
        except Exception:
            log.exception("%s: %.16s %.200r failed", exchange.request_id, exchange.method, exchange.path)
            if exchange.has_started:
                exchange.cut()
                return
            message = f"the server failed; look for {exchange.request_id} in its log"
            await exchange.answer_json(500, error_object(500, "internal_error", message))

    async def _handle(self, exchange: Exchange) -> None:
        self._authorise(exchange)
        handler = self._find(exchange)
        await handler(self._service, exchange)

    async def _refuse(self, exchange: Exchange, error: RequestError) -> None:
        if exchange.has_started:
            exchange.cut()
            return
        try:
            await exchange.answer_json(error.status, error_body(error), error_headers(error))
        except ClientGoneError:
            exchange.cut()

    def _authorise(self, exchange: Exchange) -> None:
        if self._token is None:
            return
        if exchange.path in OPEN_PATHS:
            return
        given = exchange.headers(b"authorization")
        scheme, _, value = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(value.strip(), self._token):
            raise RequestError(
                "a valid token is needed: Authorization: Bearer <token>", status=401, code="invalid_api_key"
            )

    def _find(self, exchange: Exchange) -> Handler:
        methods = {"GET": model} if exchange.path.startswith(MODEL_PREFIX) else ROUTES.get(exchange.path)
        if methods is None or (exchange.path in INTERNAL_PATHS and self._token is None):
            raise RequestError(f"there is no {exchange.path[:128]}", status=404, code="not_found")
        method = "GET" if exchange.method == "HEAD" else exchange.method
        if method not in methods:
            raise RequestError(
                f"{exchange.path} takes {', '.join(methods)}, not {exchange.method[:16]}",
                status=405,
                code="method_not_allowed",
            )
        return methods[method]


def _request_id(exchange: Exchange) -> str:
    """The client's id when it is short and harmless, else a new one."""
    values = exchange.headers(b"x-request-id")
    if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]):
        return values[0].decode("ascii")
    return "req-" + secrets.token_hex(8)
