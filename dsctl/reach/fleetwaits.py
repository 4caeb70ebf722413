"""What has to be waited for on a fleet; each wait has a deadline, a progress signal and a reason to end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dsctl.base.container import container_name
from dsctl.base.errors import GateError
from dsctl.base.fleetstep import AwaitReady, Canary, Compare, Drain, Gate, Soak
from dsctl.base.missing import Missing
from dsctl.base.voice import Voice
from dsctl.facts.host import Container
from dsctl.reach.hostdoor import HostDoor, Ran

ASK = ("python", "-m", "dsctl.gateway.ask")
MOST_RESTARTS = 3
ADMIN = ("--header-file", "x-dsctl-admin=/run/secrets/admin.token")
LAST_WORDS = 20  # log lines shown when a container fails


def gateway_status(front: HostDoor) -> dict[str, Any] | None:
    """GET /-/status of the host's gateway, asked from inside its container; None while it does not run or answer."""
    gateway = _ours(front, "gateway")
    if gateway is None or not gateway.is_running:
        return None
    url = f"http://{gateway.label('address')}:{gateway.label('port')}/-/status"
    done = front.run_in(gateway.id, [*ASK, url, "--token-file", "/run/secrets/admin.token"], timeout_s=15)
    if isinstance(done, Missing) or done.code:
        return None
    try:
        return cast("dict[str, Any]", json.loads(done.text.partition("\n")[2]))
    except ValueError:
        return None


def until_ready(host: HostDoor, action: AwaitReady, voice: Voice, pause_s: float) -> None:
    """The container's address answers 200. GateError when it dies or restarts too often, DeadlineError when late."""
    began = time.monotonic()
    while True:
        found = next((each for each in host.containers() if each.name == action.container), None)
        if found is None:
            raise GateError(f"{host.name}: {action.container} has gone", hint="run the same command again")
        if found.restarts >= MOST_RESTARTS or found.state in ("exited", "dead"):
            words = "\n".join(list(host.logs(found.id, LAST_WORDS)))
            raise GateError(
                f"{host.name}: {action.container} ended with code {found.exit_code} after {found.restarts} restarts",
                why=words, hint=f"dsctl logs {action.container}",
            )  # fmt: skip
        if found.is_running:
            done = host.run_in(found.id, [*ASK, "--insecure", action.url], timeout_s=15)
            if isinstance(done, Ran) and done.code == 0:
                return
        waited = time.monotonic() - began
        if waited > action.timeout_s:
            words = "\n".join(list(host.logs(found.id, LAST_WORDS)))
            raise GateError(f"{host.name}: {action.container} is not ready after {waited:.0f} s", why=words,
                            hint="rollout.ready_timeout_s, when it only needs longer")  # fmt: skip
        voice.waiting(f"{action.container} on {host.name}", waited, action.timeout_s)
        time.sleep(pause_s)


def through_gate(front: HostDoor, action: Gate, voice: Voice, pause_s: float) -> None:
    """A completion through nginx and gateway; tried again until the deadline, as a gateway may only just know it."""
    asked = {"model": action.model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 4}
    complete(front, action, action.replica, asked, voice, pause_s)


def complete(
    front: HostDoor, action: Gate | Compare, replica: str, asked: Mapping[str, Any], voice: Voice, pause_s: float
) -> str:  # fmt: skip
    """The answer of a replica (empty: of the service) through nginx and gateway; GateError when none comes in time."""
    began = time.monotonic()
    while True:
        done = send(front, action, replica, asked)
        if isinstance(done, Ran) and done.code == 0 and '"choices"' in done.text:
            return done.text.partition("\n")[2]
        waited = time.monotonic() - began
        if waited > action.timeout_s:
            said = done.reason if isinstance(done, Missing) else done.text
            whom = replica or "the service"
            raise GateError(f"{whom} did not complete a request through {front.name} within {waited:.0f} s",
                            why=said[-2000:].strip())  # fmt: skip
        voice.waiting(f"a completion through {front.name}", waited, action.timeout_s)
        time.sleep(pause_s)


def send(
    front: HostDoor, action: Gate | Compare | Canary, replica: str, asked: Mapping[str, Any], *, times: int = 1
) -> Ran | Missing:  # fmt: skip
    """A request to one replica (empty: to the service) through nginx and gateway, `times` times; the last answer."""
    gateway = _ours(front, "gateway")
    if gateway is None:
        raise GateError(f"{front.name} has no gateway to send a completion through", hint="dsctl deploy")
    scheme = "https" if action.is_tls else "http"
    url = f"{scheme}://127.0.0.1:{action.port}/v1/chat/completions"
    argv = [*ASK, url, "--post", "--insecure", "--timeout-s", "30", *ADMIN]
    argv += ["--header", f"x-dsctl-gate={replica}"] if replica else []
    argv += ["--times", str(times)] if times > 1 else []
    return front.run_in(gateway.id, argv, json.dumps(asked).encode(), timeout_s=15 + 30 * times)


def soak(front: HostDoor, action: Soak, voice: Voice, pause_s: float) -> None:
    """GateError as soon as the gateway says the replica is not healthy any more."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < action.seconds:
        status = gateway_status(front)
        if status is not None:
            health = next((str(r.get("health")) for r in status["replicas"] if r["name"] == action.replica), "gone")
            if health in ("dead", "gone"):
                raise GateError(f"{action.replica} stopped serving {waited:.1f} s after it took traffic",
                                hint=f"dsctl logs {action.replica}")  # fmt: skip
        voice.waiting(f"{action.replica} to prove itself", waited, action.seconds)
        time.sleep(min(pause_s, max(0.0, action.seconds - waited)))


def until_drained(fronts: Sequence[HostDoor], action: Drain, voice: Voice, pause_s: float) -> None:
    """Nothing in flight on any front host, or the time is over: what is left then goes on elsewhere or is counted."""
    began = time.monotonic()
    while True:
        left = 0
        for front in fronts:
            status = gateway_status(front)
            rows: list[dict[str, Any]] = status["replicas"] if status else []
            left += sum(int(row.get("inflight", 0)) for row in rows if row["name"] == action.replica)
        waited = time.monotonic() - began
        if not left:
            return
        if waited > action.timeout_s:
            voice.say(f"  {left} requests on {action.replica} did not end in {waited:.0f} s; they move on")
            return
        voice.waiting(f"{left} requests on {action.replica}", waited, action.timeout_s)
        time.sleep(min(pause_s, 0.2))


def _ours(host: HostDoor, role: str) -> Container | None:
    """The gateway or nginx of this door's project."""
    wanted = container_name(host.project, role)
    return next((each for each in host.containers() if each.name == wanted), None)
