"""status, logs, releases and locks of a fleet: what the hosts say, summed up; nothing is changed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsctl.base.errors import UsageError
from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.facts.host import Container, HostFacts
from dsctl.flows.fleet import Fleet, observe
from dsctl.planning.fleetseen import Found, Release, Seen


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """One copy as `status --json` shows it."""

    name: str
    host: str
    state: str  # starting | ready | draining | gated | failed | stopped
    url: str
    release: int
    gpus: list[str]
    restarts: int
    share: float = 0.0  # of all requests, while it is a canary


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The whole project over its hosts, and what is wrong."""

    project: str
    release: int | None
    copies: Sequence[CopyStatus]
    fronts: Sequence[dict[str, str]]
    unreachable: dict[str, str]
    troubles: Sequence[str]

    @property
    def exit_code(self) -> Exit:
        """0 all is well, 4 some of it, 1 nothing serves."""
        ready = [each for each in self.copies if each.state == "ready"]
        if not ready:
            return Exit.FAILED
        return Exit.PARTIAL if self.troubles or len(ready) < len(self.copies) else Exit.OK

    def as_json(self) -> dict[str, Any]:
        """The fields of the contract."""
        return {
            "project": self.project, "release": self.release, "replicas": [asdict(each) for each in self.copies],
            "fronts": list(self.fronts), "unreachable": self.unreachable, "troubles": list(self.troubles),
        }  # fmt: skip


def status(fleet: Fleet) -> FleetStatus:
    """Asks every host and sums up."""
    seen = observe(fleet)
    good = seen.last("good")
    copies = [_copy(each, seen) for each in seen.copies.values()]
    fronts = [_front(host, seen) for host in fleet.fronts]
    lost = {host: facts.reason for host, facts in seen.fleet.items() if isinstance(facts, Missing)}
    return FleetStatus(fleet.project, good.number if isinstance(good, Release) else None, copies, fronts, lost,
                       _troubles(seen, copies, fronts, lost))  # fmt: skip


def _copy(each: Found, seen: Seen) -> CopyStatus:
    row = seen.table if isinstance(seen.table, Missing) else seen.table.row(each.name)
    state = "ready" if each.is_ready else "starting" if each.container.is_running else "stopped"
    if state == "stopped" and each.container.exit_code:
        state = "failed"
    if state == "ready" and isinstance(row, Row) and row.state != "active":
        state = row.state
    if state == "ready" and isinstance(row, Missing):
        state = "gated"
    return CopyStatus(each.name, each.host, state, each.url, each.release, list(each.gpus), each.container.restarts,
                      row.share if isinstance(row, Row) else 0.0)  # fmt: skip


def _front(host: str, seen: Seen) -> dict[str, str]:
    found = {"host": host}
    for role in ("nginx", "gateway"):
        part = seen.part(host, role)
        found[role] = (part.health or part.state) if isinstance(part, Container) else part.reason
    return found


def _troubles(
    seen: Seen, copies: Sequence[CopyStatus], fronts: Sequence[dict[str, str]], lost: dict[str, str]
) -> list[str]:  # fmt: skip
    found = [f"{host} cannot be reached: {reason}" for host, reason in lost.items()]
    if not copies:
        return [*found, f"nothing is deployed as {seen.project}: dsctl deploy --hosts …"]
    found += [f"{x.name} on {x.host} is {x.state}: dsctl logs {x.name}" for x in copies if x.state != "ready"]
    for front in fronts:
        for role in ("nginx", "gateway"):
            if front["host"] not in lost and front[role] not in ("healthy", "running"):
                found.append(f"{role} on {front['host']} is not well: {front[role]}")
    last, good = seen.last(), seen.last("good")
    if isinstance(last, Release) and last.outcome == "pending":
        canary = next((each for each in copies if each.share), None)
        if canary is None:
            found.append(f"release {last.number} was begun and not finished: dsctl deploy goes on")
        else:
            stands = (
                f"{canary.name} is the canary of release {last.number} with {100 * canary.share:g} % of the requests"
            )
            found.append(f"{stands}: dsctl canary promote, or abort")
    if isinstance(good, Release) and len(copies) < good.replicas:
        found.append(f"{len(copies)} of {good.replicas} copies are there: dsctl deploy repairs this")
    return found


def releases(fleet: Fleet) -> list[dict[str, Any]]:
    """The kept releases, newest first, and whether each can still be brought back."""
    seen = observe(fleet)
    serving = seen.last("good")
    return [
        {
            "number": each.number, "outcome": each.outcome, "spec": each.spec_hash, "replicas": each.replicas,
            "image": each.image, "serves": isinstance(serving, Release) and each.number == serving.number,
            "restorable": each.outcome == "good" and _has_image(seen, each.image),
        }
        for each in reversed(seen.releases)
    ]  # fmt: skip


def _has_image(seen: Seen, image: str) -> bool:
    hosts = [facts for facts in seen.fleet.values() if isinstance(facts, HostFacts)]
    return any(not isinstance(facts.docker, Missing) and image in facts.docker.images for facts in hosts)


def locks(fleet: Fleet) -> list[dict[str, str]]:
    """Who holds which host's lock, and what is on hold."""
    seen = observe(fleet)
    found: list[dict[str, str]] = []
    for host, facts in seen.fleet.items():
        if isinstance(facts, Missing):
            found.append({"host": host, "lock": f"cannot be reached: {facts.reason}", "hold": ""})
            continue
        lock, hold = seen.file(host, "lock.json"), seen.file(host, "hold")
        shown = "free" if isinstance(lock, Missing) else lock.strip()
        found.append({"host": host, "lock": shown, "hold": "" if isinstance(hold, Missing) else hold.strip()})
    return found


def logs(fleet: Fleet, name: str | None, lines: int, *, follow: bool) -> Iterator[str]:
    """Lines of one container or of all, marked with where they come from; endless with `follow`."""
    seen = observe(fleet)
    found = [
        (f"{_short(each)}@{host}", host, each)
        for host, facts in seen.fleet.items()
        for each in (facts.ours(fleet.project) if isinstance(facts, HostFacts) else ())
        if name in (None, _short(each), each.name)
    ]
    if not found:
        raise UsageError(f"no container {name or ''} of {fleet.project}", hint="dsctl status shows what there is")
    width = max(len(mark) for mark, _, _ in found)
    if not follow:
        for mark, host, each in found:
            for line in fleet.doors[host].logs(each.id, lines):
                yield f"{mark.ljust(width)} | {line}"
        return
    heard: queue.Queue[str] = queue.Queue(10_000)

    def listen(mark: str, host: str, each: Container) -> None:
        for line in fleet.doors[host].logs(each.id, lines, follow=True):
            heard.put(f"{mark.ljust(width)} | {line}")

    for each in found:
        threading.Thread(target=listen, args=each, daemon=True).start()
    while True:
        yield heard.get()


def _short(container: Container) -> str:
    return container.label("replica") or container.label("role")
