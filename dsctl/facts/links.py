"""Network ports of a machine: a piece of shell that prints what /sys says of each, and the reading of its lines."""

from __future__ import annotations

import re

from dsctl.base.missing import Missing
from dsctl.base.ports import Port

NONE = "no network port of its own"
MOST = 256
# One line a port: kind|name|state|rate|duplex|counter=value … ; virtual interfaces have no device and are left out.
SCRIPT = r"""
links() {
    [ -d /sys/class/net ] || return 1
    for at in /sys/class/infiniband/*/ports/*; do
        [ -d "$at" ] || continue
        device=${at%/ports/*}
        printf 'infiniband|%s/%s|%s|%s||' "${device##*/}" "${at##*/}" "$(cat "$at/state")" "$(cat "$at/rate")"
        counters "$at/counters" symbol_error link_downed link_error_recovery port_rcv_errors local_link_integrity_errors
    done
    for at in /sys/class/net/*; do
        [ -e "$at/device" ] && [ "$(cat "$at/type")" = 1 ] || continue
        printf 'ethernet|%s|%s|%s|%s|' "${at##*/}" "$(cat "$at/operstate")" "$(cat "$at/speed")" "$(cat "$at/duplex")"
        counters "$at/statistics" rx_crc_errors rx_frame_errors tx_carrier_errors
    done
} 2>/dev/null
counters() {
    where=$1
    shift
    for counter in "$@"; do
        printf '%s=%s ' "$counter" "$(cat "$where/$counter")"
    done
    echo
}
"""


def read(text: str) -> list[Port] | str | Missing:
    """The ports; a sentence where there is none. Lines that are no port are left out."""
    found = [port for line in text.splitlines()[:MOST] if (port := _port(line.strip().split("|"))) is not None]
    return found or (Missing("what /sys says of network ports cannot be read") if text.strip() else NONE)


def _port(row: list[str]) -> Port | None:
    if len(row) != 6 or row[0] not in ("infiniband", "ethernet") or not re.fullmatch(r"[\w.@:/-]{1,64}", row[1]):
        return None
    kind, name, state, rate, duplex, counters = row
    pairs = re.findall(r"(\w{1,40})=(\d{1,18})\b", counters)
    errors = tuple((counter, int(value)) for counter, value in pairs)
    if kind == "infiniband":
        told = re.match(r"(\d{1,5}(?:\.\d{1,3})?) Gb/sec(?: \((\d{1,2})X)?", rate)
        word = state.partition(":")[2].strip() or state
        return Port(kind, name, word, float(told[1]) if told else 0.0, int(told[2] or 0) if told else 0, "", errors)
    speed = int(rate) / 1000 if re.fullmatch(r"\d{1,7}", rate) else 0.0  # -1 and nothing: not told
    return Port(kind, name, state, speed, 0, duplex if duplex in ("full", "half") else "", errors)
