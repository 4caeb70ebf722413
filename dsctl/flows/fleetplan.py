"""Working out what a verb on a fleet will do: the wish against what was seen, refused before anything is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import PreflightError, UsageError
from dsctl.base.fleetstep import FleetStep
from dsctl.base.missing import Missing
from dsctl.config.schema import schema
from dsctl.config.settings import Settings
from dsctl.facts.host import HostFacts
from dsctl.flows.fleet import Fleet, check_hold, check_reached, observe, wish_of
from dsctl.flows.fleetweights import config_of, deploy_steps
from dsctl.planning.eta import eta
from dsctl.planning.fleetroll import Terms, plan_fleet
from dsctl.planning.fleetseen import Release, Seen, show_release
from dsctl.planning.fleetwish import FleetWish
from dsctl.planning.willrun import Need, judge, need


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be done, what should be known about it, and where it leads."""

    steps: tuple[FleetStep, ...]
    warnings: tuple[str, ...]
    hazards: tuple[str, ...]
    eta_s: float | Missing
    url: str
    model: str
    replicas: int
    release: int
    bad: str  # the release's record, should it turn out bad


def plan_deploy(fleet: Fleet, seen: Seen | None = None, *, replicas: int | None = None) -> Planned:
    """The steps to what the settings say; without `replicas` in them a scaled number stays."""
    seen = seen or observe(fleet)
    check_reached(fleet, seen)
    check_hold(seen)
    last = seen.last()
    if replicas is None:
        is_kept = isinstance(last, Release) and "replicas" not in fleet.settings.given
        replicas = last.replicas if is_kept and isinstance(last, Release) else fleet.settings.integer("replicas")
    return _plan(fleet, seen, replicas)


def plan_release(fleet: Fleet, seen: Seen, release: Release, replicas: int) -> Planned:
    """The steps to what a recorded release was, with that many copies."""
    return _plan(fleet.with_settings(settings_of(release, fleet.settings.source)), seen, replicas)


def settings_of(release: Release, source: Path | None) -> Settings:
    """The settings a release was made with; a setting it does not know has its default."""
    told = {key: value for key, value in release.settings.items() if key in schema().settings}
    values = {key: setting.default for key, setting in schema().settings.items()} | told
    return Settings(values, frozenset(told), source)


def last_good(seen: Seen) -> Release:
    """The release that serves; UsageError when nothing was deployed."""
    good = seen.last("good")
    if isinstance(good, Missing):
        raise UsageError(f"nothing is deployed as {seen.project}", hint="dsctl deploy --hosts …")
    return good


def vacating(fleet: Fleet, host: str) -> Fleet:
    """The fleet without that host: what is on it moves."""
    from dataclasses import replace

    left = tuple(name for name in fleet.hosts if name != host)
    if host not in fleet.hosts and host not in fleet.fronts:
        raise UsageError(f"{host} is not a host of {fleet.project}", hint=f"one of: {', '.join(fleet.hosts)}")
    if not left:
        raise UsageError(f"{host} is the only host of {fleet.project}: nothing could take its copies")
    return replace(fleet, hosts=left)


def _plan(fleet: Fleet, seen: Seen, replicas: int) -> Planned:
    wish = wish_of(fleet, seen, replicas)
    _check_keys(wish, seen)
    wanted = _need(fleet, wish)
    verdict = judge(wish, seen.fleet, wanted)
    if verdict.refusals:
        why = "\n".join(f"{host}: {reason}" for host, reason in verdict.refusals.items())
        raise PreflightError(f"{wish.model} will not run on {len(verdict.refusals)} of these hosts", why=why)
    number, record, good, bad = _records(fleet, seen, wish)
    copy_bytes = wanted.total if isinstance(wanted, Need) else 0
    terms = Terms(number, record, good, copy_bytes, skips_unreachable=fleet.skips_unreachable,
                  secrets=_secrets(fleet), weights=deploy_steps(fleet, seen, wish))  # fmt: skip
    plan = plan_fleet(wish, seen, terms)
    warnings = (*plan.warnings, *(verdict.warnings if wish.kind != "oracle" else ()))
    return Planned(plan.steps, warnings, plan.hazards, eta(plan.steps, seen.loads), _url(wish, seen), wish.model,
                   replicas, number, bad)  # fmt: skip


def _records(fleet: Fleet, seen: Seen, wish: FleetWish) -> tuple[int, str, str, str]:
    """The release's number and its record as pending (empty: it is recorded), good and bad."""
    passing = ("replicas", "rollout.canary")  # how many, and how it gets there, say nothing about what serves
    told = {key: value for key, value in fleet.settings.values.items() if not key.startswith(passing)}
    told |= {"fleet.hosts": ",".join(fleet.hosts), "fleet.fronts": ",".join(fleet.fronts)}

    def text(number: int, outcome: str) -> str:
        return show_release(Release(number, outcome, wish.spec_hash, wish.replicas, wish.image, told, ""))

    last = seen.last()
    if isinstance(last, Release) and last.outcome != "bad" and _is_same(last, wish, told):
        return last.number, "", text(last.number, "good"), text(last.number, "bad")
    number = last.number + 1 if isinstance(last, Release) else 1
    return number, text(number, "pending"), text(number, "good"), text(number, "bad")


def _is_same(last: Release, wish: FleetWish, told: Mapping[str, object]) -> bool:
    """The same release, if with other copies or hosts: scaling pushes nothing out that can be rolled back to."""
    before = {key: value for key, value in last.settings.items() if not key.startswith("fleet.")}
    now = {key: value for key, value in told.items() if not key.startswith("fleet.")}
    return (last.spec_hash, last.image, before) == (wish.spec_hash, wish.image, now)


def _need(fleet: Fleet, wish: FleetWish) -> Need | Missing:
    """Memory of one copy, from the config.json of the first host that has it."""
    if not wish.model_dir:
        return Missing("this engine holds no weights")
    reasons: list[str] = []
    for host in wish.hosts:
        door = fleet.doors.get(host)
        text = door.peek(f"{wish.model_dir}/config.json") if door else Missing(f"{host} is not reached")
        if isinstance(text, Missing):
            reasons.append(text.reason)
            continue
        try:
            return need(json.loads(text), wish.flags)
        except ValueError as error:
            raise PreflightError(f"{host}: {wish.model_dir}/config.json is not JSON", why=str(error)) from error
    if fleet.settings.text("weights.source"):
        text = config_of(fleet)
        return text if isinstance(text, Missing) else need(json.loads(text), wish.flags)
    raise PreflightError(f"no host has a checkpoint in {wish.model_dir}", why="\n".join(dict.fromkeys(reasons)),
                         hint="weights.source, from which deploy brings it; or correct `model`")  # fmt: skip


def _check_keys(wish: FleetWish, seen: Seen) -> None:
    """PreflightError when everybody could use the front without a key and nobody said so."""
    if wish.front.no_auth:
        return
    if not any('"sha256"' in str(seen.file(host, "gateway/keys.json")) for host in wish.fronts):
        raise PreflightError(
            f"clients reach {', '.join(wish.fronts)} without a key: there are none yet",
            hint="dsctl keys issue, or gateway.no_auth: true",
        )


def _secrets(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """TLS files on this machine: where, and a mark of what is in them."""
    found: dict[str, tuple[str, str]] = {}
    base = fleet.settings.source.parent if fleet.settings.source else Path.cwd()
    for name, key in (("tls.crt", "front.tls_certificate"), ("tls.key", "front.tls_key")):
        if given := fleet.settings.text(key):
            path = base / Path(given).expanduser()
            try:
                found[name] = (str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:12])
            except OSError as error:
                raise PreflightError(f"{key}: {path} cannot be read: {error.strerror}") from error
    return found


def _url(wish: FleetWish, seen: Seen) -> str:
    scheme = "https" if wish.front.is_tls else "http"
    name = wish.front.server_names[0] if wish.front.server_names else ""
    for host in wish.fronts:
        facts = seen.fleet.get(host)
        if not name and isinstance(facts, HostFacts) and isinstance(facts.address, str):
            name = facts.address
    return f"{scheme}://{name or wish.fronts[0]}:{wish.front.port}"
