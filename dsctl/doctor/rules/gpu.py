"""Rules about graphics hardware: one for every Xid number, and what the kernel says besides."""

from __future__ import annotations

from dsctl.doctor.model import Rule, Severity
from dsctl.doctor.rules.entry import KERNEL, C, I, W, log
from dsctl.doctor.xid import ACTIONS, TABLE, Xid

_SEVERITY: dict[str, Severity] = {
    "app": W,
    "info": I,
    "watch": W,
    "reset": C,
    "cold": C,
    "link": C,
    "recovery": C,
    "contained": W,
}
_DEPTH = {
    "app": 3,
    "info": 5,
    "watch": 1,
    "reset": 0,
    "cold": 0,
    "link": 0,
    "recovery": 1,
    "contained": 1,
}  # app: the program's own fault comes first


def _rule(entry: Xid) -> Rule:
    fix, verify = ACTIONS[entry.action]
    return log(
        f"XID-{entry.number}", _SEVERITY[entry.action], f"Xid {entry.number}: {entry.meaning.split(':')[0]}", "nvrm: xid",
        rf"NVRM: Xid \([^)]*\): {entry.number}(?:,|\s|$)", needs=KERNEL, category="gpu", refine="xid",
        depth=_DEPTH[entry.action], cause=f"GPU {{bdf}} reported Xid {entry.number}: {entry.meaning}.",
        fix=f"{entry.extra} {fix}".strip(), verify=verify, see="https://docs.nvidia.com/deploy/xid-errors/",
    )  # fmt: skip


RULES = (
    *(_rule(entry) for entry in TABLE),
    log("XID-UNKNOWN", W, "An Xid that the table does not know", "nvrm: xid", r"(?!)", needs=KERNEL, category="gpu", depth=1,
        cause="GPU {bdf} reported Xid {xid}.", fix="Look the number up in NVIDIA's Xid catalogue; until then drain the card.", verify="No further Xid on {bdf}."),
    log("XID79-ALT", C, "A card has fallen off the bus", "fallen off the bus", r"GPU (?P<gpu>[0-9A-Fa-f:.]+): GPU has fallen off the bus|NVRM: (?:The NVIDIA GPU|GPU at) [^\n]*(?:\n[^\n]*){0,3}fallen off the bus", needs=KERNEL, category="gpu", depth=2, unless=r"Xid \(", spans=True,
        cause="Card {gpu} no longer answers on PCIe: power, heat, slot, riser or the card itself.", fix="Drain the host, power it off and on (cold); check power cables, seating, riser; replace the card if it comes back.", verify="`nvidia-smi -L` lists all cards under load for a day."),
    log("SXID-FATAL", C, "An NVSwitch reported a fatal error", "sxid", r"nvidia-nvswitch(?P<sw>\d+): SXid \(PCI:(?P<bdf>[0-9a-fA-F:.]+)\): (?P<code>\d+), Fatal", needs=KERNEL, category="gpu", depth=0,
        cause="NVSwitch {sw} ({bdf}) failed with SXid {code}; all cards on it are affected.", fix="Drain the host; restart the Fabric Manager after resetting all GPUs (nvidia-smi --gpu-reset), or power-cycle; if it comes back the board must be replaced.", verify="`nvidia-smi nvlink -s` shows all links; no new SXid."),
    log("SXID", W, "An NVSwitch reported a non-fatal error", "sxid", r"nvidia-nvswitch(?P<sw>\d+): SXid \(PCI:(?P<bdf>[0-9a-fA-F:.]+)\): (?P<code>\d+), Non-fatal", needs=KERNEL, category="gpu", depth=1,
        cause="NVSwitch {sw} ({bdf}) reported SXid {code}.", fix="Watch the rate; look at `nvidia-smi nvlink -e`; if jobs fail at the same time, treat the link as faulty.", verify="No new SXid under load."),
    log("GPU-THERMAL", C, "A card was shut down or slowed by heat", "thermal|overtemp|temperature", r"NVRM: .*(?:GPU overtemp|thermal (?:shutdown|slowdown)|exceeded.*shutdown temperature)|HW Thermal Slowdown *: Active", needs=KERNEL, category="gpu", depth=2,
        cause="The card reached its temperature limit.", fix="Check fans, airflow, dust, inlet temperature and blanking plates; until then lower the power limit (nvidia-smi -pl).", verify="`nvidia-smi -q -d TEMPERATURE,PERFORMANCE` under load shows no thermal slowdown."),
    log("GPU-CABLE", C, "A card has no power cable", "power cable", r"NVRM: [^\n]{0,60}?(?P<gpu>[0-9A-Fa-f:.]{7,})?[^\n]{0,40}does not have the necessary power cables", needs=KERNEL, category="gpu", depth=1,
        cause="The driver finds card {gpu} without its auxiliary power: a cable is loose or missing, or a power supply is off.", fix="Power the host off; seat all power cables of that card (12VHPWR until it clicks; no splitters), look at the power supplies in the BMC; power on again.", verify="`nvidia-smi` lists the card; dmesg has no line about power cables."),
    log("GPU-POWER", C, "A card's power supply failed or is throttled", "power brake|auxiliary power|power cable", r"NVRM: .*(?:power (?:cable|connector)|[Aa]uxiliary power)|HW Power Brake Slowdown *: Active", needs=KERNEL, category="gpu", depth=2, unless="necessary power cables",
        cause="The card does not get the power it asks for.", fix="Check power cables and power supplies (BMC), and redundancy after a failed PSU.", verify="`nvidia-smi -q -d PERFORMANCE` shows no power brake under load."),
)  # fmt: skip
