"""Findings that `--fix` may repair: settings of the kernel that are raised or switched and can be put back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dsctl.doctor.model import Finding

Change = Callable[[str], str | None]  # the value now → the value wanted; None when nothing is to be done


@dataclass(frozen=True, slots=True)
class Turn:
    """One setting to change, with the way back."""

    rule: str
    name: str  # below /, for example proc/sys/fs/file-max
    old: str
    new: str
    host: str = ""  # as the inventory calls it; empty: this machine

    @property
    def place(self) -> str:
        """Which setting of which machine."""
        return f"{self.host}: /{self.name}" if self.host else f"/{self.name}"

    @property
    def title(self) -> str:
        """What will be done, as one line."""
        return f"{self.place}: {self.old} → {self.new}"

    @property
    def undo(self) -> str:
        """The command that puts the old value back, on that machine."""
        return f"echo '{self.old}' | sudo tee /{self.name}"


def at_least(least: int) -> Change:
    """Raises a number; never lowers one."""
    return lambda now: str(least) if now.isdigit() and int(now) < least else None


def chosen(word: str) -> Change:
    """Switches a choice; `[madvise]` among others means madvise is on."""

    def change(now: str) -> str | None:
        return None if current(now) == word else word

    return change


def current(text: str) -> str:
    """The value in force: the bracketed word of a list of choices, else the text."""
    found = re.search(r"\[(\S+)\]", text)
    return found[1] if found else text


def wider_ports(now: str) -> str | None:
    """The range of outgoing ports from 10240 on, when it begins above."""
    words = now.split()
    return "10240 65535" if len(words) == 2 and words[0].isdigit() and int(words[0]) > 10240 else None


# rule → (pattern of settings, change); all of them are lost at the next reboot, none restarts anything
TABLE: Mapping[str, tuple[tuple[str, Change], ...]] = {
    "THP-NEVER": (("sys/kernel/mm/transparent_hugepage/enabled", chosen("madvise")),),
    "CPU-GOVERNOR": (("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor", chosen("performance")),),
    "FD-TABLE": (("proc/sys/fs/file-max", at_least(4194304)),),
    "INOTIFY": (
        ("proc/sys/fs/inotify/max_user_instances", at_least(8192)),
        ("proc/sys/fs/inotify/max_user_watches", at_least(1048576)),
    ),
    "CONNTRACK": (("proc/sys/net/netfilter/nf_conntrack_max", at_least(1048576)),),
    "SYNFLOOD": (
        ("proc/sys/net/core/somaxconn", at_least(4096)),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", at_least(8192)),
    ),
    "EPHEMERAL-PORTS": (("proc/sys/net/ipv4/ip_local_port_range", wider_ports),),
    "ARP-TABLE": (
        ("proc/sys/net/ipv4/neigh/default/gc_thresh3", at_least(16384)),
        ("proc/sys/net/ipv4/neigh/default/gc_thresh2", at_least(8192)),
        ("proc/sys/net/ipv4/neigh/default/gc_thresh1", at_least(4096)),
    ),
}  # fmt: skip


def wanted(findings: Iterable[Finding], whose: Iterable[str]) -> list[str]:
    """The rules that fired about a machine, known by these names, and can be repaired on it."""
    names = set(whose)
    fired = {f.rule.id for root in findings for f in _flat(root) if f.host in names}
    return [rule for rule in TABLE if rule in fired]


def _flat(finding: Finding) -> list[Finding]:
    return [finding, *(f for child in finding.children for f in _flat(child))]
