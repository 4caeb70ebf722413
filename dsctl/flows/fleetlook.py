"""Opens the hosts that `--hosts` names and has them looked at; says what became of a rule over all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.config.inventory import Entry
from dsctl.config.settings import load
from dsctl.doctor import cardrules, judge
from dsctl.doctor.model import Case, Rule, Verdict
from dsctl.facts import survey
from dsctl.flows import hostcheck
from dsctl.flows.hostcheck import Fleet
from dsctl.reach import certificates, ras

if TYPE_CHECKING:  # with paramiko, which a look at this machine does not wait for
    from dsctl.reach.ssh.host import Host

DEADLINE_S = 120.0
RAS_PAUSE_S = 10.0
NO_TLS = "nothing listens on a port that usually has TLS"


def look(pattern: str, since_s: float | None) -> Fleet:
    """Every host of the pattern, in parallel. UsageError where it names none."""
    from dsctl.flows import hosts
    from dsctl.reach.ssh.ways import everywhere

    settings = load(None)
    entries = {entry.name: entry for entry in hosts.chosen(settings, pattern)}
    arguments = survey.command(hostcheck.DAY_S if since_s is None else since_s)
    with hosts.ways(settings) as opened:

        def ask(name: str) -> str:
            done = opened.host(entries[name]).script(
                survey.SCRIPT, *arguments, deadline_s=DEADLINE_S, root=True, again=True
            )
            return done.text

        fleet = hostcheck.look(list(entries), ask)
        everywhere(list(fleet.cases), lambda name: _ports(fleet.cases[name], entries[name], opened.host(entries[name])))
        _ras(fleet, {name: opened.host(entries[name]) for name in fleet.cases})
        return fleet


def _ports(case: Case, entry: Entry, host: Host) -> None:
    """What a host's TLS ports show to a client that comes from here."""
    told = case.facts.get("listening")
    if not isinstance(told, frozenset):
        case.missing["certificates"] = case.missing.get("listening", "the host did not tell which ports are open")
        return
    wanted = set(certificates.USUAL) & cast("frozenset[int]", told)
    found = certificates.ask(entry.address or host.login.address, wanted) if wanted else NO_TLS
    if isinstance(found, Missing):
        case.missing["certificates"] = found.reason
    else:
        case.facts["certificates"] = found


def _ras(fleet: Fleet, opened: Mapping[str, Host]) -> None:
    """NCCL's RAS server of each host, asked twice through its SSH connection; a job is told by its first host only."""
    first = {name: _ask_ras(fleet.cases[name], host) for name, host in opened.items()}
    if any(isinstance(answer, dict) for answer in first.values()):
        time.sleep(RAS_PAUSE_S)
    told: set[str] = set()
    for name, before in first.items():
        case = fleet.cases[name]
        after = _ask_ras(case, opened[name]) if isinstance(before, dict) else before
        if isinstance(before, str):
            case.facts["ras"] = before
        elif isinstance(before, Missing) or not isinstance(after, dict):
            case.missing["ras"] = before.reason if isinstance(before, Missing) else "it answered once and not again"
        else:
            jobs = cardrules.jobs(after)
            case.facts["ras"] = "the same job as on another host" if jobs and jobs <= told else (before, after)
            told |= jobs


def _ask_ras(case: Case, host: Host) -> dict[str, Any] | str | Missing:
    """One answer; a sentence where nothing listens on the port of such a server."""
    told = case.facts.get("listening")
    if isinstance(told, frozenset) and ras.PORT not in told:
        return f"no NCCL job offers its state here (nothing listens on port {ras.PORT})"
    try:
        return ras.ask_through(host.link.tcp(("127.0.0.1", ras.PORT)))
    except DsctlError as problem:
        return Missing(problem.message)


def verdicts(
    case: Case, remote: Mapping[str, Case], fired: set[str], rules: Iterable[Rule], *, is_local: bool
) -> list[Verdict]:
    """A rule is clear only where it is clear on every host (and here, if this machine or logs were looked at)."""
    rules = list(rules)
    whole = judge.verdicts(case, fired, rules)
    if not remote:
        return whole
    each = {name: judge.verdicts(one, set(), rules) for name, one in remote.items()}
    return [
        _over(rule, whole[at], {name: told[at] for name, told in each.items()}, is_local)
        for at, rule in enumerate(rules)
    ]


def _over(rule: Rule, whole: Verdict, hosts_say: Mapping[str, Verdict], is_local: bool) -> Verdict:
    if whole.outcome == "fired":
        return whole
    on_hosts = rule.needs[0] == "kernel log" or not rule.needs[0].endswith((" log", " hosts"))
    if not on_hosts or rule.needs[0] == "deep.network":
        return whole
    said = list(hosts_say.items()) + ([("this machine", whole)] if is_local else [])
    unchecked = [(name, v) for name, v in said if v.outcome == "not checked"]
    if unchecked:
        names = ", ".join(name for name, _ in unchecked[:5])
        return Verdict(rule.id, "not checked", f"{names}: {unchecked[0][1].why}")
    clear = any(v.outcome == "clear" for _, v in said)
    return Verdict(rule.id, "clear" if clear else "not applicable", "" if clear else said[0][1].why)
