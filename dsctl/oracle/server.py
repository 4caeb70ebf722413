"""The oracle's routes: the replica's contract (attempts, progress, health), clients' routes, and the fault switches."""

from __future__ import annotations

import asyncio
import hmac
import os
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dsctl.oracle.direct import ROUTES, Direct
from dsctl.oracle.engine import Engine, Pace, progress_of
from dsctl.oracle.faults import Fault, Switches, parse_fault
from dsctl.oracle.record import Record
from dsctl.oracle.replies import encode
from dsctl.oracle.stream import AttemptBody, Stream
from dsctl.oracle.wire import Peer
from engine.spec.attempt import GENERATE_PATH, PROGRESS_PATH

BEAT_S = 0.1
OPEN_PATHS = frozenset({"/health", "/ready"})
_attempt = msgspec.json.Decoder(AttemptBody)


@dataclass(frozen=True, slots=True)
class OracleSettings:
    """What one oracle is told at its start."""

    name: str = "oracle"
    model: str = "oracle"
    numerics_id: str = "oracle-1"
    exact: bool = True
    token: str | None = None
    ledger: str | None = None
    pace: Pace = field(default_factory=Pace)
    refuses: frozenset[str] = frozenset()  # fields that clients without a gateway may not send


class ProgressStream:
    """A listener to the progress stream; the beat writes its lines."""

    def __init__(self, server: OracleServer, peer: Peer) -> None:
        self._server = server
        self._peer = peer

    def heartbeat(self, beat: int) -> None:
        """One line."""
        self._peer.write_chunk(b"data: " + encode(self._server.progress) + b"\n\n")

    def gone(self) -> None:
        """Nothing to clean up."""


class OracleServer:
    """Routes requests to the engine and beats ten times a second."""

    def __init__(self, settings: OracleSettings, faults: list[Fault]) -> None:
        self.settings = settings
        self.switches = Switches(faults)
        self.engine = Engine(settings.pace, self.switches)
        self.progress: dict[str, Any] = {}
        self._peers: set[Peer] = set()
        self._record = Record(settings.ledger, settings.name)

    def protocol(self) -> Peer:
        """A new connection's protocol."""
        return Peer(self.handle, self._peers)

    async def beat(self) -> None:
        """Write progress and heartbeats for ever."""
        while True:
            self.progress = progress_of(self.engine, self.settings.numerics_id, exact=self.settings.exact)
            for peer in list(self._peers):
                if peer.answer is not None:
                    peer.answer.heartbeat(self.engine.beat)
            await asyncio.sleep(BEAT_S)

    def handle(self, peer: Peer) -> None:
        """Serve one whole request."""
        if not self._may(peer):
            self._error(peer, 401, "unauthorized", "this replica wants its project's token")
        elif peer.method == "POST":
            self._post(peer)
        elif peer.path == PROGRESS_PATH:
            peer.start_stream()
            peer.answer = ProgressStream(self, peer)
            peer.answer.heartbeat(self.engine.beat)
        else:
            self._get(peer)

    def _may(self, peer: Peer) -> bool:
        token = self.settings.token
        if token is None or peer.path in OPEN_PATHS:
            return True
        given = peer.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    def _post(self, peer: Peer) -> None:
        try:
            if peer.path == GENERATE_PATH:
                self._generate(peer, _attempt.decode(peer.body))
            elif peer.path in ROUTES:
                self._direct(peer, msgspec.json.decode(peer.body, type=dict[str, Any]))
            elif peer.path == "/-/fault":
                self.switches.set([parse_fault(line) for line in peer.body.decode().split()])
                peer.reply(200, b"{}")
            elif peer.path == "/-/lateness":
                self.engine.metronome.lateness.reset()
                peer.reply(200, b"{}")
            else:
                self._error(peer, 404, "not_found", f"no route {peer.path}")
        except (msgspec.DecodeError, ValueError, TypeError, KeyError, IndexError) as error:
            self._error(peer, 400, "invalid_request", f"the body cannot be served: {error}")

    def _direct(self, peer: Peer, body: dict[str, Any]) -> None:
        if refused := sorted(self.settings.refuses & body.keys()):
            self._error(peer, 400, "unsupported_field", f"no such field: {', '.join(refused)}")
        elif self.switches.take(frozenset({"error"}), 0):
            self._error(peer, 500, "internal", "an error (fault)")
        else:
            direct = Direct(ROUTES[peer.path], body, peer, self.engine)
            peer.answer = direct
            direct.start()

    def _generate(self, peer: Peer, attempt: AttemptBody) -> None:
        if self.switches.take(frozenset({"refuse"}), 0):
            self._error(peer, 503, "overloaded", "no room (fault)", "retry-after: 1\r\n")
        elif self.switches.take(frozenset({"error"}), 0):
            self._error(peer, 500, "internal", "an error (fault)")
        elif self.switches.take(frozenset({"reject"}), 0):
            self._error(peer, 400, "context_length_exceeded", "the prompt is too long (fault)")
        else:
            stream = Stream(attempt, peer, self.engine, self._record)
            peer.answer = stream
            stream.start()

    def _get(self, peer: Peer) -> None:
        settings, engine = self.settings, self.engine
        identity = {"numerics_id": settings.numerics_id, "exact": settings.exact}
        pages: dict[str, Any] = {
            "/v1/models": {"object": "list", "data": [{"id": settings.model, "object": "model", "owned_by": "dsctl"}]},
            "/version": {
                "version": "oracle",
                "model": settings.model,
                "dtype": "none",
                **identity,
                "reason": "by design",
            },
            "/server_info": {
                "name": settings.name,
                "state": engine.state,
                "api_pid": os.getpid(),
                "core_pids": [os.getpid()],
                "restarts": engine.epoch - 1,
                "model": settings.model,
                "config": {},
                "plan": {},
                **identity,
            },
            "/health": {"status": "ok"},
            "/ready": {"status": engine.state},
        }
        if peer.path == "/-/lateness":
            late = self.engine.metronome.lateness
            told = {"count": late.count, "p50": late.quantile(0.5), "p99": late.quantile(0.99)}
            peer.reply(200, encode(told))
        elif peer.path == "/metrics":
            text = f"vllm:num_requests_running {engine.running}\nvllm:num_requests_waiting 0\n"
            peer.reply(200, text.encode(), "text/plain; version=0.0.4")
        elif peer.path in pages:
            ready = engine.state == "ready" or peer.path != "/ready"
            peer.reply(200 if ready else 503, encode(pages[peer.path]))
        else:
            self._error(peer, 404, "not_found", f"no route {peer.path}")

    def _error(self, peer: Peer, status: int, code: str, message: str, extra: str = "") -> None:
        error = {"message": message, "type": "error", "code": code, "param": None}
        peer.reply(status, encode({"error": error}), extra=extra)
