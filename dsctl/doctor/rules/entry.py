"""Short forms to write entries of the catalogue with: a rule read from logs, a rule read from the machine."""

from __future__ import annotations

from dsctl.doctor.model import Rule, Severity

C: Severity = "critical"
W: Severity = "warning"
I: Severity = "info"  # noqa: E741 - the catalogue's own letter

APP = ("app log",)
KERNEL = ("kernel log",)
CONTAINER = ("container log", "app log")
FABRIC = ("fabric manager log",)
NGINX = ("nginx log",)


def log(
    id_: str, severity: Severity, title: str, literals: str, pattern: str, *, cause: str, fix: str, verify: str,
    needs: tuple[str, ...] = APP, category: str = "", affects: str = "serving", unless: str = "", spans: bool = False,
    depth: int = 1, least: int = 1, refine: str = "", see: str = "",
) -> Rule:  # fmt: skip
    """A rule over log lines. `literals`: words of which one is in the line, lower case, separated by `|`."""
    words = tuple(literals.lower().split("|"))
    return Rule(
        id_, title, severity, category or id_.split("-", maxsplit=1)[0].lower(), needs, cause, fix, verify, affects, words, pattern,
        unless, spans, depth, least, refine, see,
    )  # fmt: skip


def live(
    id_: str, severity: Severity, title: str, fact: str, *, cause: str, fix: str, verify: str, category: str = "",
    affects: str = "serving", depth: int = 1,
) -> Rule:  # fmt: skip
    """A rule over a fact of this machine, judged by the function of the same name in doctor/live.py."""
    return Rule(
        id_,
        title,
        severity,
        category or id_.split("-", maxsplit=1)[0].lower(),
        (fact,),
        cause,
        fix,
        verify,
        affects,
        depth=depth,
    )
