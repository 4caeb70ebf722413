"""The numbers that NVIDIA's driver prints as Xid: what each means and what to do, as a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Action = Literal["app", "reset", "cold", "info", "watch", "link", "recovery", "contained"]

LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<bdf>[0-9A-Fa-f]{4}(?:[0-9A-Fa-f]{4})?:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.\d)?"
    r"(?: GPU-I:(?P<gi>\d+))?(?: GPU-CI:(?P<ci>\d+))?\): (?P<xid>\d{1,6})(?:, (?P<rest>.*))?"
)
RECOVERY = re.compile(
    r"recovery action changed from 0x[0-9a-fA-F]+ \((?P<old>[^)]+)\) to 0x[0-9a-fA-F]+ \((?P<new>[^)]+)\)"
)
NVLINK5 = re.compile(
    r"(?P<unit>\w+(?:/\w+)?)\s+(?P<sev>Nonfatal|Fatal)\s+XC[01]\s+i\d+\s+Link\s+(?P<link>-?\d+)\s+\((?P<info>0x[0-9a-fA-F]+)"
)


@dataclass(frozen=True, slots=True)
class Xid:
    """One number: its meaning and the kind of action NVIDIA asks for."""

    number: int
    meaning: str
    action: Action
    extra: str = ""


_RESET = "Drain this host, stop the GPU's processes and reset it: nvidia-smi --gpu-reset -i {bdf} (reboot if the reset is refused)."
_COLD = "Drain this host and power it off and on (cold restart)."

ACTIONS: dict[Action, tuple[str, str]] = {  # action → (fix, verify)
    "app": (
        "Restart the program and look for its bug first (CUDA_LAUNCH_BLOCKING=1 once, update the engine). Suspect the card only when different programs fail on this same card.",
        "The program runs; no further Xid on {bdf}.",
    ),
    "reset": (_RESET + " If it comes back: dcgmi diag -r 3, then replace the card.", "`nvidia-smi -q -i {bdf}` is clean and no further Xid under load."),
    "cold": (
        _COLD + " Check the card's power cables, seating and riser; if it comes back, replace the card (RMA).",
        "`nvidia-smi -L` lists all cards; no further Xid under load.",
    ),
    "contained": (
        "Restart the program that was stopped (no reboot needed; the program is not to blame). Reset the card when it is idle (nvidia-smi --gpu-reset -i {bdf}), so that a pending row remap takes effect; if it comes back on this card: dcgmi diag -r 3, then replace it.",
        "`nvidia-smi -q -d ECC,ROW_REMAPPER -i {bdf}` shows nothing pending; no further Xid on {bdf}.",
    ),
    "info": ("Nothing to do now; keep it with the story of this card.", "`nvidia-smi -q -i {bdf}`."),
    "watch": ("Plan a reset of the card (nvidia-smi --gpu-reset -i {bdf}) when it is idle; watch the rate.", "`nvidia-smi -q -d ECC,ROW_REMAPPER -i {bdf}`."),
    "link": ("Drain this host; check `nvidia-smi nvlink -s` and `-e` and the Fabric Manager's log; reset the card; if it comes back, the link or board is faulty.", "`nvidia-smi nvlink -s` shows all links; no further Xid."),
    "recovery": ("Do what the driver asks for: {new}.", "`nvidia-smi -q -i {bdf} | grep -i recovery` shows None."),
}  # fmt: skip

TABLE: tuple[Xid, ...] = (
    Xid(13, "a graphics/compute engine exception: usually a kernel of the program addressed memory wrongly", "app"),
    Xid(31, "a memory page fault of the GPU: usually the program used an invalid address", "app"),
    Xid(32, "a corrupted push buffer: driver, PCIe quality or program", "app"),
    Xid(38, "a firmware error of the driver", "reset"),
    Xid(43, "the GPU stopped processing a program's work", "app"),
    Xid(44, "a graphics engine fault during a context switch", "reset"),
    Xid(45, "the driver cleaned up the channels of a program that ended or failed", "info"),
    Xid(46, "the GPU stopped processing and must be reset", "reset"),
    Xid(48, "a double-bit ECC error: the card's memory returned data that cannot be mended", "reset", "If row remapping fails or errors return, replace the card."),
    Xid(54, "the auxiliary power of the card is not connected or failed", "cold", "Check the power cable of this card first."),
    Xid(56, "a display engine error", "watch"),
    Xid(57, "an error of the frame buffer's programming", "reset"),
    Xid(58, "unstable memory interface: silent data errors are possible", "reset"),
    Xid(61, "the GPU's internal micro-controller stopped (breakpoint)", "reset"),
    Xid(62, "the GPU's internal micro-controller halted", "reset"),
    Xid(63, "a memory row or page was marked to be replaced; it takes effect at the next reset", "watch"),
    Xid(64, "replacing a faulty memory row or page FAILED", "reset", "A failed remap is a reason to replace the card (RMA)."),
    Xid(65, "a video processor exception", "app"),
    Xid(66, "the driver refused an illegal access of a program", "app"),
    Xid(67, "the driver refused an illegal access of a program", "app"),
    Xid(68, "a video decoder exception", "app"),
    Xid(69, "a compute engine class error: usually an invalid launch by the program", "app"),
    Xid(72, "a corrupted push buffer", "app"),
    Xid(73, "a video encoder error", "app"),
    Xid(74, "an NVLink error: the link between cards or to the switch failed", "link"),
    Xid(78, "a vGPU start error", "app"),
    Xid(79, "the GPU has fallen off the bus: it no longer answers on PCIe (power, heat, slot, riser or the card itself)", "cold"),
    Xid(80, "corrupted data sent to the GPU", "reset"),
    Xid(92, "a high rate of correctable memory errors", "watch"),
    Xid(93, "a non-fatal violation of the card's firmware protection", "info"),
    Xid(94, "a contained memory error: only the program that touched the bad memory was stopped", "contained"),
    Xid(95, "an uncontained memory error: any program on this GPU may have read wrong data", "reset"),
    Xid(96, "a video decoder error", "app"),
    Xid(106, "a test message", "info"),
    Xid(107, "a test message", "info"),
    Xid(109, "a context switch timed out", "reset"),
    Xid(110, "a security fault of the GPU", "reset"),
    Xid(119, "the GPU's system processor (GSP) did not answer the driver in time", "reset", "If it comes back: update driver and firmware; where NVIDIA advises it, NVreg_EnableGpuFirmware=0 (not with open modules)."),
    Xid(120, "the GPU's system processor (GSP) failed", "reset"),
    Xid(121, "an error on the chip-to-chip link", "watch"),
    Xid(122, "reading or writing the card's SPI ROM failed", "reset"),
    Xid(123, "the power management unit did not answer", "reset"),
    Xid(125, "the card's inforom is corrupt or could not be read", "watch"),
    Xid(136, "training of an NVLink failed", "link"),
    Xid(137, "an NVLink fault caused by a peer's program", "app"),
    Xid(140, "unrecovered ECC errors", "reset"),
    Xid(141, "an automatic check of the board reported something", "info"),
    Xid(143, "the GPU could not be initialised", "reset"),
    Xid(144, "NVLink: an error in the link's SAW unit", "link"),
    Xid(145, "NVLink: an error in the link's RLW unit", "link"),
    Xid(146, "NVLink: an error in the link's TLW unit", "link"),
    Xid(147, "NVLink: an error in the link's TREX unit", "link"),
    Xid(148, "NVLink: an error in the link's NVLPW unit", "link"),
    Xid(149, "NVLink: a link event in the network interface", "link"),
    Xid(150, "NVLink: an error in the link's MSE unit", "link"),
    Xid(151, "key rotation for confidential computing failed", "reset"),
    Xid(154, "the driver changed what must be done with this GPU", "recovery"),
    Xid(155, "NVLink was reset by software", "reset"),
    Xid(156, "the GPU's resource was retired", "reset"),
    Xid(157, "retiring a resource failed", "reset", "Replace the card."),
    Xid(158, "a fatal time-out of the GPU", "reset"),
    Xid(160, "a memory channel was retired", "info"),
    Xid(161, "retiring a memory channel failed", "reset"),
    Xid(162, "power smoothing: lifetime capability exceeded", "info"),
    Xid(163, "power smoothing: an event", "info"),
    Xid(164, "power smoothing: an event", "info"),
    Xid(165, "power smoothing: an event", "info"),
    Xid(167, "PCIe fatal time-out", "cold"),
    Xid(168, "the card works with less memory than it should", "cold"),
    Xid(171, "details of an ECC error: in DRAM", "reset"),
    Xid(172, "details of an ECC error: in SRAM", "reset"),
)  # fmt: skip

BY_NUMBER: dict[int, Xid] = {entry.number: entry for entry in TABLE}


def sub_code(info: str) -> int:
    """The NVLink 5 sub-code: bits 20 to 25 of the interrupt word."""
    return (int(info, 16) >> 20) & 0x3F
