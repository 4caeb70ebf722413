"""Finds the rank to blame for a collective that never finished, from plain logs of many ranks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import cast

from dsctl.doctor import context
from dsctl.doctor.judge import quote
from dsctl.doctor.model import Case, Evidence, Finding
from dsctl.doctor.rules import catalogue
from dsctl.facts.flight import Flight
from dsctl.facts.logscan import Hit

TIMEOUT = re.compile(
    r"Watchdog caught collective operation timeout: WorkNCCL\((?:SeqNum=(?P<seq>\d{1,12}), )?OpType=(?P<op>\w+)"
    r"(?:, NumelIn=(?P<nin>\d{1,12}), NumelOut=(?P<nout>\d{1,12}))?.*?Timeout\(ms\)=(?P<ms>\d{1,12})"
)
STATUS = re.compile(
    r"(?:failure detected by watchdog at work sequence id:|at NCCL work:|detected by watchdog at work:) (?P<seq>\d{1,12})[, ]+"
    r"(?:PG status: )?last enqueued (?:NCCL )?work: (?P<enq>-?\d{1,12}), last completed (?:NCCL )?work: (?P<comp>-?\d{1,12})"
)
GROUP = re.compile(r"\[PG (?:ID )?(?P<pg>\d{1,12})(?: PG GUID (?P<guid>[^ \]]+))?")
LABEL = re.compile(r"\bRank (?P<rank>\d{1,5})\]")
MOST_RANKS = 1 << 16  # a larger number in a log is a misread line, not a job
UNEVEN = frozenset(
    {"SEND", "RECV", "COALESCED", "ALLTOALL", "ALLTOALL_BASE", "GATHER", "SCATTER", "UNKNOWN", "BARRIER"}
)


@dataclass(slots=True)
class Report:
    """What one rank said about the collective it was stuck in."""

    rank: int
    group: str = ""
    seq: int | None = None
    op: str = ""
    size: str = ""
    enqueued: int | None = None
    completed: int | None = None
    ms: int | None = None
    hit: Hit | None = None
    place: str = ""  # the call in the program, from a flight recorder's dump
    file: str = ""


def _flown(case: Case) -> dict[int, Report]:
    """What flight recorders kept: of every rank the group that is stuck, else the one that has come least far."""
    found: dict[int, Report] = {}
    flights = cast("list[Flight]", case.facts.get("flight") or [])
    groups = [f.group for f in flights if f.seq is not None]
    group = max(set(groups), key=lambda g: (groups.count(g), g)) if groups else ""
    for f in flights:
        if f.group == group:
            found[f.rank] = Report(
                f.rank, f.group, f.seq, f.op, f.size, f.enqueued, f.completed, f.ms, place=f.place, file=f.file
            )
    return found


def reports(case: Case) -> dict[int, Report]:
    """Every rank's first report, from dumps or log lines."""
    found = _flown(case)
    for hit in case.hits:
        text = hit.said.text
        timeout, status = TIMEOUT.search(text), STATUS.search(text)
        if timeout is None and status is None:
            continue
        rank = case.rank_of(hit)
        if rank is None and (label := LABEL.search(text)):
            rank = int(label["rank"])
        if rank is None:
            continue
        report = found.setdefault(rank, Report(rank, hit=hit))
        report.hit = report.hit or hit
        if (group := GROUP.search(text)) and not report.group:
            report.group = group["pg"]
        if timeout and not report.op:
            report.op, report.size, report.ms = timeout["op"], timeout["nin"] or "", int(timeout["ms"])
            report.seq = int(timeout["seq"]) if timeout["seq"] else report.seq
        if status and report.enqueued is None:
            report.enqueued, report.completed = int(status["enq"]), int(status["comp"])
            report.seq = int(status["seq"]) if report.seq is None else report.seq
    return found


def analyse(case: Case) -> list[Finding]:
    """The findings about ranks: absent, behind, out of step, or all there and stuck. Empty without a time-out."""
    said = reports(case)
    if not said:
        return []
    seqs = Counter(r.seq for r in said.values() if r.seq is not None)
    seq = max(seqs, key=lambda s: (seqs[s], s)) if seqs else None
    stuck = [r for r in said.values() if r.seq == seq] or list(said.values())
    if (odd := _desync(stuck)) is not None:
        return [_desynced(case, stuck, odd)]
    behind = sorted(r.rank for r in said.values() if _is_behind(r, seq))
    if behind:
        return [_suspects(case, "RANK-BEHIND", behind, stuck, said)]
    expected, certain = _expected(case, said)
    absent = sorted(expected - set(said))
    if absent and (len(said) > 1 or certain) and len(absent) <= max(len(said), 1):
        return [_suspects(case, "RANK-ABSENT", absent, stuck, said)]
    if absent or (len(said) == 1 and not certain):
        return []
    lowest = _slowest(stuck)
    if lowest is not None:
        return [_suspects(case, "RANK-BEHIND", [lowest], stuck, said)]
    return [_all_there(case, stuck)]


def lonely(case: Case) -> str:
    """What is missing when a time-out cannot be put on a rank: which ranks' logs are here, which are not."""
    said = reports(case)
    if not said:
        return ""
    here = sorted(said)
    size = context.world(case)
    missing = f" of {size}" if size else ""
    verb = (
        "only "
        + ("rank" if len(here) == 1 else "ranks")
        + f" {', '.join(map(str, here[:16]))}'s log"
        + ("" if len(here) == 1 else "s")
    )
    what = _what(list(said.values()))
    return f" It was {what}; {verb}{missing} {'is' if len(here) == 1 else 'are'} here, so the rank to blame cannot be named."


def _is_behind(report: Report, seq: int | None) -> bool:
    if seq is None:
        return False
    if report.enqueued is not None and report.enqueued >= 0 and report.enqueued < seq:
        return True
    return report.seq is not None and report.seq < seq


def _slowest(stuck: list[Report]) -> int | None:
    """The one rank that had queued fewer collectives than all others, where exactly one had."""
    queued = {r.rank: r.enqueued for r in stuck if r.enqueued is not None}
    if len(queued) < 3 or len(queued) != len(stuck):
        return None
    low = min(queued.values())
    slow = [rank for rank, n in queued.items() if n == low]
    others = {n for n in queued.values() if n != low}
    return slow[0] if len(slow) == 1 and len(others) == 1 else None


def _desync(stuck: list[Report]) -> tuple[str, dict[str, list[int]]] | None:
    """("operation" or "size", value → ranks) when ranks of one group disagree about the same collective."""
    for group in {r.group for r in stuck}:
        mine = [r for r in stuck if r.group == group and r.op and r.op not in UNEVEN]
        for what in ("op", "size"):
            values: dict[str, list[int]] = {}
            for report in mine:
                values.setdefault(getattr(report, what), []).append(report.rank)
            values.pop("", None)
            if len(values) > 1:
                return what, values
    return None


def _expected(case: Case, said: dict[int, Report]) -> tuple[set[int], bool]:
    """The ranks that should be there, and whether their number is known for certain."""
    size = context.world(case)
    speaking = set(context.speakers(case)) | set(said)
    if size is not None and max(said) < size <= MOST_RANKS:
        return set(range(size)) | {r for r in speaking if r < size}, True
    top = min(max(speaking), MOST_RANKS)
    return set(range(top + 1)), False


def _what(stuck: list[Report]) -> str:
    report = next((r for r in stuck if r.op), stuck[0])
    number = f" number {report.seq}" if report.seq is not None else ""
    op = report.op or "the collective"
    wait = f" for {report.ms / 1000:.0f} s" if report.ms else ""
    return f"{op}{number}{wait}"


def _names(ranks: list[int]) -> str:
    shown = ", ".join(str(r) for r in ranks[:16]) + (f" and {len(ranks) - 16} more" if len(ranks) > 16 else "")
    return ("rank " if len(ranks) == 1 else "ranks ") + shown


def _suspects(case: Case, rule_id: str, ranks: list[int], stuck: list[Report], said: dict[int, Report]) -> Finding:
    rule = catalogue()[rule_id]
    hosts, _ = context.places(case)
    waiting = sorted(set(said) - set(ranks))
    verb = "never joined" if rule_id == "RANK-ABSENT" else "is behind in" if len(ranks) == 1 else "are behind in"
    who = _names(ranks).capitalize()
    cause = f"{who} {verb} {_what(stuck)}" + (f"; {_names(waiting)} waited in it." if waiting else ".")
    evidence: list[Evidence] = [e for r in stuck[:1] for e in _quoted(r)]
    for rank in ranks[:4]:
        told, line = _told_of(case, rank, said.get(rank))
        cause += told
        evidence += line
    completed = [r.completed for r in stuck if r.completed is not None]
    if completed and set(completed) == {-1}:
        cause += " No collective of this group had ever completed: the rank may still have been loading, or the network never worked."
    host = next((hosts[r] for r in ranks if r in hosts), "")
    place = f" ({host})" if host else ""
    fix = _suspect_fix(case, ranks, place)
    title = f"{who}{place} {verb} the collective"
    finding = Finding(
        rule, title, cause, fix, rule.verify, rule.severity, host, ranks=tuple(ranks), evidence=evidence[:4]
    )
    return _timed(finding, stuck)


def _suspect_fix(case: Case, ranks: list[int], place: str) -> str:
    """Its own exception where there is one, else where to look."""
    for rank in ranks:
        if (crash := context.exception_of(case, rank)) is not None:
            where = f"{crash[0]}:{crash[1]}"
            return f"Rank {rank} ended on its own exception ({where}): «{crash[2]}». Repair that; the network and the time-out are not to blame."
    return (
        f"Go to {_names(ranks)}{place}: look at the last lines of that log and at `dmesg -T` of the host (Xid, killed process); "
        "if it still runs, `py-spy dump --pid PID`. Repair what stopped it; do not raise the time-out."
    )


def _told_of(case: Case, rank: int, report: Report | None) -> tuple[str, list[Evidence]]:
    """What is known about a suspect: host, card, progress, last line."""
    hosts, buses = context.places(case)
    where = f" on {hosts[rank]}" if rank in hosts else ""
    card = f", card at bus {buses[rank]}" if rank in buses else ""
    word = context.exception_of(case, rank) or context.last_words(case, rank)
    told = ""
    if report is not None and report.place:
        told += f" Rank {rank}{where} was in {report.op or 'the call'} at {report.place}."
    if report is not None and report.enqueued is not None:
        told += f" Rank {rank}{where}{card} had queued {report.enqueued} collectives and completed {report.completed}."
    elif rank in hosts:
        told = f" Rank {rank} ran{where}{card}."
    if word is not None:
        return told + f" Its last line: «{word[2]}».", [Evidence(*word)]
    if rank not in context.speakers(case):
        told += f" No line of rank {rank} is in these logs: it died silently, or its log is missing here."
    return told, []


def _desynced(case: Case, stuck: list[Report], odd: tuple[str, dict[str, list[int]]]) -> Finding:
    rule = catalogue()["RANK-DESYNC"]
    what, values = odd
    fewest = min(values, key=lambda v: len(values[v]))
    told = "; ".join(f"{_names(ranks)}: {value}" for value, ranks in sorted(values.items()))
    number = next((r.seq for r in stuck if r.seq is not None), None)
    noun = "operations" if what == "op" else "sizes"
    cause = f"In collective number {number} of the same group the ranks called different {noun}: {told}. The program took different paths (a branch on rank or data, a batch of another shape, a skipped step)."
    minority = sorted(values[fewest])
    guilty = minority if len(minority) * 2 < sum(map(len, values.values())) else []
    hosts, _ = context.places(case)
    host = next((hosts[r] for r in guilty if r in hosts), "")
    if guilty:
        cause += f" {_names(guilty).capitalize()} differ{'s' if len(guilty) == 1 else ''} from the rest."
    evidence = [e for value in values for r in stuck if r.rank == values[value][0] for e in _quoted(r)]
    for value, ranks in sorted(values.items()):
        if place := next((r.place for r in stuck if r.rank == ranks[0]), ""):
            cause += f" {value}: at {place}."
    fix = f"Compare what {_names(guilty) if guilty else 'both sides'} did before: the stack in the flight recorder's dump (TORCH_FR_BUFFER_SIZE=2000, TORCH_NCCL_DUMP_ON_TIMEOUT=1) or TORCH_DISTRIBUTED_DEBUG=DETAIL names the call. The network and the time-out are not to blame."
    finding = Finding(
        rule,
        f"Ranks called different {noun} in collective {number}",
        cause,
        fix,
        rule.verify,
        rule.severity,
        host,
        ranks=tuple(guilty),
        evidence=evidence[:4],
    )
    return _timed(finding, stuck)


def _all_there(case: Case, stuck: list[Report]) -> Finding:
    first = all(r.completed == -1 for r in stuck if r.completed is not None) and (
        any(r.completed == -1 for r in stuck) or all(r.seq in (0, 1) for r in stuck)
    )
    rule = catalogue()["NCCL-FIRST-COLL" if first else "NCCL-STUCK"]
    cause = f"All {len(stuck)} ranks entered {_what(stuck)} and none came out. {rule.cause}"
    finding = Finding(
        rule,
        rule.title,
        cause,
        rule.fix,
        rule.verify,
        rule.severity,
        ranks=(),
        evidence=[e for r in stuck[:2] for e in _quoted(r)],
    )
    return _timed(finding, stuck)


def _quoted(report: Report) -> list[Evidence]:
    """The line of a report, or its dump."""
    if report.hit is not None:
        return [quote(report.hit)]
    told = f"rank {report.rank}: in {report.op or '?'} number {report.seq}" + (
        f" at {report.place}" if report.place else ""
    )
    return [Evidence(report.file, 0, told)] if report.file else []


def _timed(finding: Finding, stuck: list[Report]) -> Finding:
    stamps = [r.hit.said.stamp for r in stuck if r.hit and r.hit.said.stamp is not None]
    finding.first, finding.last = (min(stamps), max(stamps)) if stamps else (None, None)
    finding.files = {r.hit.file if r.hit else r.file for r in stuck}
    finding.count = len(stuck)
    return finding
