"""The ASGI application: takes a request through admission to a session, and accounts for its one ending."""

from __future__ import annotations

import logging
import time

import msgspec

from dsctl.gateway import admission, pages
from dsctl.gateway.asgi import ClientConnection, Headers, Receive, Scope, Send
from dsctl.gateway.call import ROUTES, Call
from dsctl.gateway.desk import Desk
from dsctl.gateway.refusal import ClientGoneError, RefusedError
from dsctl.gateway.session import Session
from dsctl.gateway.sink import StreamSink, WholeSink, send_refusal
from dsctl.gateway.upload import Upload

_log = logging.getLogger("dsctl.gateway")


class Outcome(msgspec.Struct, frozen=True):
    """How a request ended: done, refused, aborted or failed; with the status and code the client saw."""

    word: str
    status: int = 200
    code: str = ""


class Gateway:
    """One ASGI application over one desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every refusal becomes an error object."""
        if scope["type"] != "http":
            return
        headers = admission.header_map(scope)
        ident = admission.request_id(headers)
        reply: Headers = [(b"x-request-id", ident.encode())]
        upload = Upload(receive)
        try:
            admission.check_host(scope, self.desk.settings)
            if scope["path"].startswith("/-/"):
                await pages.admin(self.desk, scope, headers, send)
                return
            admission.check_route(scope)
            if scope["path"] in admission.OPEN_PATHS:
                await pages.open_page(self.desk, scope, send)
                return
            key = admission.identify(headers, self.desk)
            if scope["path"] in ROUTES:
                await self._generate(scope, headers, (ident, key), upload.receive, send)
            else:
                await pages.page(self.desk, scope, send)
        except RefusedError as refusal:
            self.desk.metrics.requests[(_route(scope), str(refusal.status), "refused")] += 1
            is_unread = scope["method"] == "POST" and not upload.is_whole
            refusal.close = refusal.close or is_unread
            await send_refusal(send, refusal, reply, upload if is_unread else None)
        except ClientGoneError:
            self.desk.metrics.disconnects += 1

    async def _generate(
        self, scope: Scope, headers: dict[bytes, bytes], who: tuple[str, str], receive: Receive, send: Send
    ) -> None:
        desk = self.desk
        admission.check_room(headers, desk)
        desk.admitted += 1
        try:
            body = await admission.read_body(receive, desk.settings)
            desk.body_bytes += len(body)
            try:
                await self._run(scope, headers, who, body, send)
            finally:
                desk.body_bytes -= len(body)
        finally:
            desk.admitted -= 1

    async def _run(
        self, scope: Scope, headers: dict[bytes, bytes], who: tuple[str, str], body: bytes, send: Send
    ) -> None:
        ident, key = who
        desk = self.desk
        call = Call(ROUTES[scope["path"]], body, key, ident)
        admission.shape_call(call, headers, desk)
        reply: Headers = [(b"x-request-id", ident.encode())]
        sink = StreamSink(send, reply) if call.streams else WholeSink(send, reply, call.route)
        session = Session(desk, call, sink)
        connection: ClientConnection = scope["extensions"]["dsctl.connection"]
        desk.sessions[session] = connection
        connection.watch(session.leave)
        try:
            outcome = await self._serve(session)
        finally:
            desk.sessions.pop(session, None)
            desk.release(session)
            connection.watch(None)
        self._account(session, outcome)

    async def _serve(self, session: Session) -> Outcome:
        try:
            await session.run()
            return Outcome("aborted", 499) if session.is_gone and session.usage is None else Outcome("done")
        except ClientGoneError:
            return Outcome("aborted", 499)
        except RefusedError as refusal:
            word = "failed" if session.sink.is_started or session.history.started else "refused"
            await session.sink.fail(refusal)
            return Outcome(word, refusal.status, refusal.code)
        except Exception:  # noqa: BLE001 — the last resort of a request: its client must hear of it
            _log.exception("request %s failed inside the gateway", session.call.id)
            await session.sink.fail(
                RefusedError(503, "gateway_error", "the gateway failed on this request", retry_after=1)
            )
            return Outcome("failed", 503, "gateway_error")

    def _account(self, session: Session, outcome: Outcome) -> None:
        metrics = self.desk.metrics
        metrics.requests[(session.call.route, str(outcome.status), outcome.word)] += 1
        if outcome.word == "done":
            metrics.e2e.observe(time.monotonic() - session.began)
            self.desk.done += 1
        elif outcome.word == "aborted":
            metrics.disconnects += 1
        if session.continuations:
            metrics.gap.observe(session.longest_gap)
        self.desk.ledger.write(session, outcome.word, outcome.status, outcome.code)


def _route(scope: Scope) -> str:
    return ROUTES.get(scope["path"], scope["path"] if scope["path"] in admission.GET_PATHS else "other")
