"""Makes one story of an incident: effects become children of their causes, the earliest and deepest cause first."""

from __future__ import annotations

import re

from dsctl.doctor.model import Finding, at_least

BEFORE_S = 6 * 3600.0  # a cause may lie this long before its effect
AFTER_S = 900.0  # clocks and time-outs: a cause may be logged this much later
NEAR_S = 3600.0  # across hosts
TOGETHER_S = 180.0
COLLECTIVE = frozenset((  # effects that a cause on another host can have
    "NCCL-TIMEOUT", "RANK-ABSENT", "RANK-BEHIND", "NCCL-STUCK", "NCCL-FIRST-COLL", "NCCL-REMOTE", "NCCL-CONNECT", "NCCL-IB-WC", "EFA-PEER", "NCCL-WD-STUCK",
    "NCCL-UNHANDLED-SYS", "NCCL-UNHANDLED-CUDA", "NCCL-INTERNAL", "NCCL-CUDA-WARN", "GLOO-CONNECT", "GLOO-PEER", "GLOO-TIMEOUT", "MONITORED-BARRIER",
    "TCPSTORE-TIMEOUT", "TCPSTORE-CLIENTS", "TCPSTORE-DEAD", "RDZV-TIMEOUT", "ELASTIC-FAIL", "SIGKILL", "EXIT-137", "RAY-NODE-DEAD",
    "VLLM-SHMBC", "VLLM-RPC", "ENGINE-DEAD", "WORKER-DIED", "SGL-WATCHDOG", "SGL-CHILD", "NGINX-NOLIVE", "NGINX-REFUSED", "NGINX-TIMEOUT",
))  # fmt: skip
_ASKED = re.compile(r"It now asks for: (?P<act>[^(]{3,60}) \(")
VERDICTS = frozenset({"RANK-ABSENT", "RANK-BEHIND", "RANK-DESYNC", "NCCL-STUCK", "NCCL-FIRST-COLL"})
FABRIC = ("SXID-FATAL", "FM-FAULT", "FM-VERSION", "FM-DOWN")
NO_REMAP = frozenset({"XID-64", "XID-157", "XID-161"})  # the card could not take its bad memory out of use
LINKS = frozenset({"XID-74", "XID-136", "XID-155", *(f"XID-{n}" for n in range(144, 151))})
# advice that has nothing to do with why a program stopped
APART = frozenset(
    {
        "NCCL-ENV-OLD",
        "ALLOC-CONF-OLD",
        "REQ-TOO-LONG",
        "VLLM-TOOLS",
        "NGINX-BODY",
        "CPU-THERMAL",
        "SELINUX",
        "SYNFLOOD",
        "INOTIFY",
        "RAY-SHM",
        "NVML-PERM",
    }
)


def tell(findings: list[Finding]) -> list[Finding]:
    """The roots, each with its story; worst and earliest first."""
    _merge_cards(findings)
    _merge_hosts(findings)
    _merge_memory(findings)
    roots = [f for f in findings if f.rule.id not in {c.rule.id for g in findings for c in g.children if c is f}]
    placed: list[Finding] = []
    for effect in sorted(roots, key=lambda f: -f.rule.depth):
        cause = _cause_of(effect, roots)
        if cause is not None:
            cause.children.append(effect)
            placed.append(effect)
    top = _merge_last_words([f for f in roots if not any(f is p for p in placed)])
    for root in top:
        _finish(root)
    return sorted(top, key=_order)


def _merge_last_words(top: list[Finding]) -> list[Finding]:
    """Effects without a known cause that belong together are one story under the first of them."""
    kept: list[Finding] = []
    for finding in sorted(
        top, key=lambda f: (f.rule.depth, f.first or 0.0, min((e.line for e in f.evidence), default=0))
    ):
        lasting = finding.rule.depth >= 4 and finding.rule.id not in APART
        head = next(
            (k for k in kept if lasting and k.rule.depth >= 3 and k.rule.id not in APART and _explains(k, finding)),
            None,
        )
        if head is None:
            kept.append(finding)
        else:
            head.children.append(finding)
    return kept


def _order(finding: Finding) -> tuple[int, int, float, str]:
    return (
        0 if at_least(finding.severity, "critical") else 1,
        finding.rule.depth,
        finding.first or 0.0,
        finding.rule.id,
    )


def _merge_cards(findings: list[Finding]) -> None:
    """Several numbers of one card are one fault: the deepest stays, the others become its children."""
    cards: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.rule.category == "gpu" and finding.gpu:
            cards.setdefault((finding.host, finding.gpu), []).append(finding)
    for group in cards.values():
        root, *rest = sorted(
            group, key=lambda f: (f.rule.depth, f.rule.id in ("XID-154", "XID-63", "XID-64"), f.first or 0.0)
        )
        for other in rest:
            root.children.append(other)
            if other.rule.id in NO_REMAP:
                root.fix = f"The bad memory could not be taken out of use ({other.title}): drain this host and replace the card (RMA); a reset only bridges the time until then. {root.fix}"
            if other.rule.id == "XID-154" and (asked := _ASKED.search(other.cause)):
                root.fix += f" The driver itself now asks for: {asked['act']}."
            findings[:] = [f for f in findings if f is not other]


def _merge_hosts(findings: list[Finding]) -> None:
    """The same number on several cards of a host is one fault; a broken fabric explains the links of its cards."""
    heads: dict[tuple[str, str], Finding] = {}
    for finding in [f for f in findings if f.rule.category == "gpu"]:
        fabric = next((f for f in findings if f.rule.id in FABRIC and f.host == finding.host), None)
        head = (
            fabric
            if finding.rule.id in LINKS and fabric is not None
            else heads.setdefault((finding.host, finding.rule.id), finding)
        )
        if head is not finding:
            head.children.append(finding)
            findings[:] = [f for f in findings if f is not finding]


def _merge_memory(findings: list[Finding]) -> None:
    """Processes that run out of card memory together are one incident; the first of them is the cause."""
    family = [
        f for f in findings if (f.rule.id.startswith("OOM-") and "HOST" not in f.rule.id) or f.rule.id == "SGL-CAPTURE"
    ]
    family.sort(key=lambda f: (f.first or 0.0, f.evidence[0].line if f.evidence else 0, f.rule.id))
    for at, head in enumerate(family):
        if not any(head is f for f in findings):
            continue
        for other in family[at + 1 :]:
            gap = _gap(head, other)
            same = bool(head.files & other.files) or (head.host == other.host and gap is not None)
            if same and (gap is None or abs(gap) <= TOGETHER_S) and any(other is f for f in findings):
                head.children.append(other)
                findings[:] = [f for f in findings if f is not other]


def _cause_of(effect: Finding, all_: list[Finding]) -> Finding | None:
    """The best cause of an effect: less deep in the chain, near in place and time."""
    if not effect.rule.is_symptom or effect.rule.id in APART:
        return None
    possible = [
        f
        for f in all_
        if f is not effect and f.rule.depth < effect.rule.depth and f.rule.id not in APART and _explains(f, effect)
    ]
    if not possible:
        return None
    return min(possible, key=lambda f: _fit(f, effect))


def _explains(cause: Finding, effect: Finding) -> bool:
    is_card = (
        effect.rule.id in ("CUDA-ECC", "CUDA-NVLINK") and cause.rule.category == "gpu"
    )  # a mild word of the driver, a dead program
    if not (is_card or at_least(cause.severity, effect.severity)) or not at_least(cause.severity, "warning"):
        return False
    if cause.rule.id.startswith("NGINX") and not effect.rule.id.startswith("NGINX"):
        return False
    if effect.rule.id.startswith("XID") and cause.rule.id != "CUDA-ILLEGAL" and cause.rule.category != "gpu":
        return cause.rule.depth >= 1 and cause.rule.id.startswith("OOM") and effect.rule.depth == 5
    if effect.rule.id in ("RANK-ABSENT", "RANK-BEHIND") and effect.host and cause.host and cause.host != effect.host:
        return bool(set(cause.ranks) & set(effect.ranks))
    together = bool(cause.files & effect.files) or not cause.host or not effect.host or cause.host == effect.host
    within = _gap(cause, effect)
    if together:
        return within is None or -BEFORE_S <= -within <= AFTER_S
    if effect.rule.id not in COLLECTIVE:
        return False
    return within is None or -NEAR_S <= -within <= AFTER_S


def _gap(cause: Finding, effect: Finding) -> float | None:
    """Seconds from cause to effect; None where one has no time."""
    if cause.first is None or effect.first is None:
        return None
    return effect.first - cause.first


def _fit(cause: Finding, effect: Finding) -> tuple[int, int, int, float]:
    """Smaller is better: the ranks agree, same place, then the deeper cause, then the earlier one."""
    ranks = (
        bool(set(cause.ranks) & set(effect.ranks))
        if cause.ranks and effect.ranks and effect.rule.id.startswith("RANK")
        else True
    )
    place = 0 if cause.host == effect.host or cause.files & effect.files else 1
    warned = 0 if at_least(cause.severity, "critical") else 1
    return (warned, 0 if ranks else 1, place * 4 + cause.rule.depth, cause.first or 0.0)


def _finish(root: Finding) -> None:
    """Orders the children and lets the root say which ranks it took along."""
    root.children.sort(key=lambda f: (f.rule.depth, f.first or 0.0, f.rule.id))
    for child in list(root.children):
        _finish(child)
        if child.rule.id == "ELASTIC-FAIL" and child.ranks:
            root.cause += f" {child.cause}"
            root.host = root.host or child.host
            root.ranks = root.ranks or child.ranks
        if child.rule.id in ("RANK-ABSENT", "RANK-BEHIND") and "Consequence" not in root.cause:
            root.cause += f" Consequence: {child.cause}"
            root.ranks = root.ranks or child.ranks
