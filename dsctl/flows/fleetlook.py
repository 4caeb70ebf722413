"""Opens the hosts that `--hosts` names and has them looked at; says what became of a rule over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dsctl.config.settings import load
from dsctl.doctor import judge
from dsctl.doctor.model import Case, Rule, Verdict
from dsctl.facts import survey
from dsctl.flows import hostcheck
from dsctl.flows.hostcheck import Fleet

DEADLINE_S = 120.0


def look(pattern: str, since_s: float | None) -> Fleet:
    """Every host of the pattern, in parallel. UsageError where it names none."""
    from dsctl.flows import hosts  # with paramiko, which a look at this machine does not wait for

    settings = load(None)
    entries = {entry.name: entry for entry in hosts.chosen(settings, pattern)}
    arguments = survey.command(hostcheck.DAY_S if since_s is None else since_s)
    with hosts.ways(settings) as opened:

        def ask(name: str) -> str:
            done = opened.host(entries[name]).script(
                survey.SCRIPT, *arguments, deadline_s=DEADLINE_S, root=True, again=True
            )
            return done.text

        return hostcheck.look(list(entries), ask)


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
    if not on_hosts or rule.needs[0] == "clocks of hosts":
        return whole
    said = list(hosts_say.items()) + ([("this machine", whole)] if is_local else [])
    unchecked = [(name, v) for name, v in said if v.outcome == "not checked"]
    if unchecked:
        names = ", ".join(name for name, _ in unchecked[:5])
        return Verdict(rule.id, "not checked", f"{names}: {unchecked[0][1].why}")
    clear = any(v.outcome == "clear" for _, v in said)
    return Verdict(rule.id, "clear" if clear else "not applicable", "" if clear else said[0][1].why)
