"""What steps wait for: a gateway that answers, a replica that is ready, an answer that is right, nothing in flight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from dsctl.base.errors import DsctlError, GateError
from dsctl.base.missing import Missing
from dsctl.base.places import Places
from dsctl.base.secret import redact
from dsctl.base.step import AwaitGateway, AwaitReady, Drain, Gate
from dsctl.base.units import seconds
from dsctl.base.voice import Voice
from dsctl.reach import http, machine
from dsctl.reach.door import Reply
from dsctl.reach.patience import Patience
from dsctl.reach.supervisor import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

CRASHES = 3  # starts without ever being ready that make a crash loop
LOG_LINES = 12


class _Life:
    """What happens to one supervised program while it is waited for."""

    def __init__(self, name: str, supervisor: Supervisor, places: Places) -> None:
        self._name, self._supervisor, self._places = name, supervisor, places
        self._pids: set[int] = set()

    def check(self) -> None:
        """GateError with the last lines of the log when the program has given up or keeps dying."""
        found = self._supervisor.program(self._name)
        if found is None:
            raise GateError(f"{self._name} is not known to supervisord any more")
        condition = str(found["statename"])
        if found["pid"]:
            self._pids.add(int(found["pid"]))
        if condition in ("FATAL", "EXITED", "STOPPED"):
            raise self.failure(f"{self._name} ended with exit code {found['exitstatus']} and was not started again")
        if len(self._pids) > CRASHES - 1 and condition in ("BACKOFF", "STARTING", "RUNNING"):
            raise self.failure(f"{self._name} is in a crash loop: started {len(self._pids)} times, never ready")

    def failure(self, message: str) -> GateError:
        """The error that shows how the log ends."""
        return GateError(message, why=_last_words(self._name, self._places), hint=f"dsctl logs {self._name}")


def gateway(action: AwaitGateway, supervisor: Supervisor, places: Places, patience: Patience, voice: Voice) -> None:
    """Until the gateway answers its status route."""
    life = _Life("gateway", supervisor, places)
    admin = http.token(places.admin_token)
    for _ in patience.ticks("the gateway", action.timeout_s, voice):
        reply = http.get(f"{action.url}/-/status", admin)
        if isinstance(reply, Reply) and reply.status == 200:
            return
        life.check()
    raise life.failure(f"the gateway does not answer on {action.url} after {seconds(action.timeout_s)}")


def ready(action: AwaitReady, supervisor: Supervisor, places: Places, patience: Patience, voice: Voice) -> None:
    """Until /ready is 200."""
    life = _Life(action.name, supervisor, places)
    secret = http.token(places.replica_token)
    for _ in patience.ticks(f"{action.name} to be ready", action.timeout_s, voice):
        reply = http.get(f"{action.url}/ready")
        if isinstance(reply, Reply) and reply.status == 200:
            return
        life.check()
        if isinstance(reply, Reply):
            info = http.get(f"{action.url}/server_info", secret)
            if isinstance(info, Reply) and _field(info.text, "state") == "failed":
                raise life.failure(f"{action.name} gave up: its core does not start")
    raise life.failure(f"{action.name} is not ready after {seconds(action.timeout_s)}")


def gate(action: Gate, places: Places, patience: Patience, voice: Voice) -> None:
    """Until a completion through the front comes back whole; a refusal that waiting cannot mend ends it at once."""
    headers: dict[str, str] = {}
    if action.name:
        headers = {"x-dsctl-gate": action.name, "x-dsctl-admin": http.token(places.admin_token).reveal()}
    body = {"model": action.model, "prompt": "1 + 1 =", "max_tokens": 4, "temperature": 0}
    what = f"{action.name or 'the front'} to answer a completion"
    last = "no answer"
    for waited in patience.ticks(what, action.timeout_s, voice):
        reply = http.post(f"{action.front}/v1/completions", body, headers, action.timeout_s - waited + 1)
        if isinstance(reply, Missing):
            last = reply.reason
            continue
        if reply.status == 200 and _is_completion(reply.text):
            return
        if reply.status == 401 and not action.name:
            return  # the front asks for a key, as it should; the gate requests have shown that it serves
        last = f"{reply.status}: {http.message(reply.text)}"
        if reply.status == 200 or (400 <= reply.status < 500 and reply.status not in (404, 408, 429)):
            break
    log = _last_words(action.name or "gateway", places)
    hint = f"dsctl logs {action.name or 'gateway'}"
    raise GateError(f"{action.name or 'the front'} did not pass the gate: {last}", why=log, hint=hint)


def drained(action: Drain, places: Places, patience: Patience, voice: Voice) -> None:
    """Until nothing is in flight on a replica; after its time the rest goes on elsewhere, and is counted."""
    left = 0
    for _ in patience.ticks(f"{action.name} to finish what it has", action.timeout_s, voice):
        reply = http.get(f"{action.front}/-/status", http.token(places.admin_token))
        if isinstance(reply, Missing):
            return  # no gateway, so nothing comes from it
        left = _inflight(reply.text, action.name)
        if left == 0:
            return
    voice.say(f"{action.name} still has {left} requests after {seconds(action.timeout_s)}; they go on elsewhere")


def taken_up(front: str, generation: int, admin: Path, patience: Patience, voice: Voice) -> None:
    """Until a running gateway serves this generation of the table; nothing to wait for without a gateway."""
    for _ in patience.ticks("the gateway to read the replica table", 30, voice):
        reply = http.get(f"{front}/-/status", http.token(admin))
        if isinstance(reply, Missing):
            return
        seen = _field(reply.text, "generation")
        if isinstance(seen, int) and seen >= generation:
            return
    message = f"the gateway does not take up generation {generation} of the replica table"
    raise DsctlError(message, hint="dsctl logs gateway")


def _last_words(name: str, places: Places) -> str:
    """How a program's log ends, without the project's tokens should one be in it."""
    tokens = (http.token(places.admin_token), http.token(places.replica_token))
    return redact(machine.tail(places.log(name), LOG_LINES), *tokens)


def _field(text: str, name: str) -> object:
    try:
        return cast("dict[str, object]", json.loads(text)).get(name)
    except (ValueError, AttributeError):
        return None


def _inflight(text: str, name: str) -> int:
    replicas = _field(text, "replicas")
    rows = cast("list[dict[str, Any]]", replicas if isinstance(replicas, list) else [])
    return next((int(row.get("inflight", 0)) for row in rows if row.get("name") == name), 0)


def _is_completion(text: str) -> bool:
    """True when the body holds a choice with text and at least one generated token."""
    choices, usage = _field(text, "choices"), _field(text, "usage")
    try:
        first = cast("list[dict[str, object]]", choices)[0]
        return isinstance(first["text"], str) and int(cast("dict[str, int]", usage)["completion_tokens"]) > 0
    except (TypeError, LookupError, ValueError):
        return False
