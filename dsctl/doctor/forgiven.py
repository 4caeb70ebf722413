"""Tells what passed by itself (a pod placed later, a server or link that came back) from what stayed broken."""

from __future__ import annotations

import re

from dsctl.doctor.model import Case, Match, Words

NOTHING = Words(rule="(none)")


def unplaced(match: Match, case: Case) -> Words | None:
    """A pod that could not be scheduled at first and was scheduled later is no fault."""
    pod = re.search(r"\bpod/(\S+)", match.hit.said.text)
    for hit in case.hits:
        if (
            hit.file == match.hit.file
            and hit.number > match.hit.number
            and "Successfully assigned" in hit.said.text
            and (pod is None or pod[1] in hit.said.text)
        ):
            return NOTHING
    return None


def nfs_back(match: Match, case: Case) -> Words | None:
    """A server that answered again soon after is no fault."""
    server, host, at = match.groups.get("srv", ""), case.host_of(match.hit), match.hit.number
    back = [
        hit
        for hit in case.hits
        if f"nfs: server {server} OK" in hit.said.text
        and case.host_of(hit) == host
        and hit.file == match.hit.file
        and hit.number > at
    ]
    if not back:
        return None
    start, end = match.hit.said.stamp, back[0].said.stamp
    return NOTHING if start is None or end is None or end - start < 60 else None


def link_back(match: Match, case: Case) -> Words | None:
    """A link that came back within a minute, once, and broke no collective is no fault (a reboot of the switch, boot)."""
    found = re.search(r"\b(?:mlx\w+|ice|i40e|bnxt_en) [0-9a-f:.]+ \w+|\b(?:ib|eth|en|bond)\w+", match.hit.said.text)
    name = found[0] if found else ""
    same = [hit for hit in case.hits if hit.file == match.hit.file and name and name in hit.said.text]
    downs = sum(bool(re.search(r"[Ll]ink (?:is )?[Dd]own", hit.said.text)) for hit in same)
    ups = [
        h.said.stamp for h in same if h.number > match.hit.number and re.search(r"[Ll]ink (?:is )?[Uu]p", h.said.text)
    ]
    start, end = match.hit.said.stamp, ups[0] if ups else None
    hurt = any("NCCL WARN" in hit.said.text or "Watchdog caught" in hit.said.text for hit in case.hits)
    brief = start is not None and end is not None and end - start < 60
    return NOTHING if brief and downs == 1 and not hurt else None


_TOOK = re.compile(r'\b(?:rt|request_time)["=: ]+(\d{1,5}\.\d+)')


def gave_up(match: Match, case: Case) -> Words | None:
    """Clients that leave are normal; three that leave after the same long time have a time-out."""
    own = _TOOK.search(match.hit.said.text)
    if own is None or float(own[1]) < 10:
        return NOTHING
    took = [float(t[1]) for hit in case.hits if " 499 " in hit.said.text and (t := _TOOK.search(hit.said.text))]
    alike = sum(abs(t - float(own[1])) < 1 for t in took)
    return None if alike >= 3 else NOTHING


def inodes(match: Match, case: Case) -> Words | None:
    """A full disk of which `df -i` in the same files says that only the inodes are gone."""
    for hit in case.hits:
        if "IUse%" not in hit.said.text:
            continue
        for line in hit.after[:3]:
            full = re.match(r"\S+ +\d+ +\d+ +\d+ +(?:99|100)% +(?P<at>/\S*)", line)
            if full and full["at"] in (match.groups.get("p") or full["at"]):
                return Words(
                    title="The disk has no inodes left",
                    cause=f"{full['at']} has no free inodes: millions of small files; the free gigabytes do not help.",
                    fix=f"Find the directory with the most files (du --inodes -x -d 3 {full['at']} | sort -n | tail) and delete caches that can be made again (torch_compile_cache, triton, pip, old logs); for good a file system with more inodes (XFS, or mkfs.ext4 -i 8192).",
                    verify=f"`df -i {full['at']}` shows free inodes; the step passes.",
                )
    return None


def node_back(match: Match, case: Case) -> Words | None:
    """A node that reported again later (a reboot) is no fault."""
    ready = f"Node {match.groups.get('node', '')} status is now: NodeReady"
    back = any(
        hit.file == match.hit.file and hit.number > match.hit.number and ready in hit.said.text for hit in case.hits
    )
    return NOTHING if back else None
