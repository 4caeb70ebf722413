"""Judges this machine: one function per rule over one fact; a fact that is absent never reaches a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import cast

from dsctl.base.cards import RECOVERY, Card, Cards, slow_reasons
from dsctl.doctor import activerules, cardrules
from dsctl.doctor.model import Case, Evidence, Finding, Severity
from dsctl.doctor.rules import catalogue

GIB = 1 << 30
Seen = tuple[str, dict[str, object]]  # the evidence, and the values of the words
Judge = Callable[[Case], Iterator[Seen]]
HARMFUL = {
    "NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "CUDA_LAUNCH_BLOCKING": "1", "NCCL_CUMEM_ENABLE": "0",
}  # fmt: skip
OLD = ("NCCL_BLOCKING_WAIT", "NCCL_ASYNC_ERROR_HANDLING", "NCCL_DESYNC_DEBUG", "NCCL_ENABLE_TIMING")


def _gib(value: float) -> str:
    return f"{value / GIB:.1f} GiB"


def _shm(case: Case) -> Iterator[Seen]:
    total = cast("int", case.facts["shm"])
    if total < GIB:
        yield f"/dev/shm holds {total} bytes", {"total": _gib(total)}


def _nofile(case: Case) -> Iterator[Seen]:
    hard = cast("dict[str, int]", case.facts["limits"])["nofile"]
    if 0 <= hard < 65536:
        yield f"RLIMIT_NOFILE hard {hard}", {"n": hard, "severity": "critical" if hard < 4096 else "warning"}


def _memlock(case: Case) -> Iterator[Seen]:
    hard = cast("int", case.facts["memlock"])
    if 0 <= hard < 64 * GIB:
        yield f"RLIMIT_MEMLOCK hard {hard}", {"n": hard}


def _disks(case: Case) -> Iterator[Seen]:
    for path, (total, free, _) in cast("dict[str, tuple[int, int, int]]", case.facts["disks"]).items():
        if (free < 2 * GIB and free < total * 0.2) or (free < total * 0.05 and free < 50 * GIB):
            dire = free < GIB
            yield (
                f"{path}: {free} of {total} bytes free",
                {"path": path, "free": _gib(free), "total": _gib(total), "severity": "critical" if dire else "warning"},
            )


def _memory(case: Case) -> Iterator[Seen]:
    total, free = cast("tuple[int, int]", case.facts["memory"])
    if free < total * 0.05:
        yield f"MemAvailable {free} of {total} bytes", {"free": _gib(free), "total": _gib(total)}


def _thp(case: Case) -> Iterator[Seen]:
    said = cast("list[str]", case.facts["thp"])[0]
    if "[never]" in said:
        yield f"transparent_hugepage/enabled: {said}", {}


def _environment(case: Case) -> dict[str, str]:
    return cast("dict[str, str]", case.facts["environment"])


def _spin(case: Case) -> Iterator[Seen]:
    found = _environment(case)
    if found.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE" or found.get("KMP_BLOCKTIME", "") in ("infinite", "-1"):
        yield (
            "OMP_WAIT_POLICY=" + found.get("OMP_WAIT_POLICY", "") + " KMP_BLOCKTIME=" + found.get("KMP_BLOCKTIME", ""),
            {},
        )


def _threads(case: Case) -> Iterator[Seen]:
    wanted, cores = _environment(case).get("OMP_NUM_THREADS", ""), cast("int", case.facts.get("cores", 1))
    if wanted.isdigit() and int(wanted) > cores:
        yield f"OMP_NUM_THREADS={wanted}, {cores} usable cores", {"n": wanted, "cores": cores}


def _harmful(case: Case) -> Iterator[Seen]:
    found = [f"{name}={value}" for name, value in _environment(case).items() if HARMFUL.get(name) == value]
    if found:
        yield " ".join(found), {"names": ", ".join(found)}


def _old(case: Case) -> Iterator[Seen]:
    found = [name for name in OLD if name in _environment(case)]
    if found:
        yield " ".join(found), {"names": ", ".join(found)}


def _twice(case: Case) -> Iterator[Seen]:
    found = _environment(case)
    old, new = found.get("PYTORCH_CUDA_ALLOC_CONF"), found.get("PYTORCH_ALLOC_CONF")
    if old is not None and new is not None and old != new:
        yield f"PYTORCH_CUDA_ALLOC_CONF={old} PYTORCH_ALLOC_CONF={new}", {}


def _flag(name: str) -> Judge:
    def judge(case: Case) -> Iterator[Seen]:
        if name not in cast("frozenset[str]", case.facts["cpu"]):
            yield f"/proc/cpuinfo: no {name}", {}

    return judge


def _governor(case: Case) -> Iterator[Seen]:
    name = cast("list[str]", case.facts["governor"])[0]
    if name == "powersave":
        yield f"scaling_governor: {name}", {"name": name}


def _compiler(case: Case) -> Iterator[Seen]:
    path, why = cast("tuple[str, str]", case.facts["compiler"])
    if not path:
        yield why, {"why": why}


def _files(case: Case) -> Iterator[Seen]:
    used, most = cast("tuple[int, int]", case.facts["files"])
    if used > most * 0.8:
        yield f"/proc/sys/fs/file-nr: {used} of {most}", {"used": used, "max": most}


def _port(case: Case) -> Iterator[Seen]:
    port, listening = cast("tuple[int, frozenset[int]]", case.facts["port"])
    if port in listening:
        yield f"port {port} listens", {"port": port}


def _driver(case: Case) -> Iterator[Seen]:
    found = cast("Cards", case.facts["gpu"])
    if found.problem:
        yield f"NVML: {found.words}", {"words": f"{found.problem}: {found.words}"}


def _count(case: Case) -> Iterator[Seen]:
    found, bus = cast("Cards", case.facts["gpu"]), cast("int", case.facts.get("gpu on the bus", 0))
    if not found.problem and len(found.cards) < bus:
        yield f"{bus} on the bus, {len(found.cards)} in NVML", {"bus": bus, "n": len(found.cards)}


def _cards(case: Case) -> tuple[Card, ...]:
    return cast("Cards", case.facts["gpu"]).cards


def _each(name: str, is_bad: Callable[[float], bool], words: Callable[[Card, float], dict[str, object]]) -> Judge:
    def judge(case: Case) -> Iterator[Seen]:
        for card in _cards(case):
            value = card.number(name)
            if value is not None and is_bad(value):
                yield f"{card.name} {card.bus}: {name} = {value:g}", {"gpu": card.index, **words(card, value)}

    return judge


def _temperature(case: Case) -> Iterator[Seen]:
    for card in _cards(case):
        now, limit = card.number("temperature"), card.number("slowdown_at")
        if now is not None and limit and now >= limit - 5:
            yield f"{card.name} {card.bus}: {now:g} °C", {"gpu": card.index, "t": f"{now:g}", "limit": f"{limit:g}"}


def _less(now: str, most: str, only_busy: bool = False, unit: float = 1.0, slack: float = 1.0) -> Judge:
    def judge(case: Case) -> Iterator[Seen]:
        for card in _cards(case):
            value, limit = card.number(now), card.number(most)
            if value is None or not limit or value >= limit * slack or (only_busy and card.number("pstate") != 0):
                continue
            words: dict[str, object] = {
                "gpu": card.index,
                "now": f"{value / unit:g}",
                "max": f"{limit / unit:g}",
                "default": f"{limit / unit:g}",
            }
            yield f"{card.name} {card.bus}: {now} {value / unit:g} of {limit / unit:g}", words

    return judge


def _zombies(case: Case) -> Iterator[Seen]:
    alive = cast("Callable[[int], bool]", case.facts["alive"])
    for card in _cards(case):
        held = card.readings.get("processes")
        for pid, size in held if isinstance(held, list) else ():
            if size > GIB and not alive(pid):
                yield (
                    f"{card.name} {card.bus}: pid {pid} holds {size} bytes",
                    {"gpu": card.index, "pid": pid, "held": _gib(size)},
                )


JUDGES: dict[str, Judge] = {
    **cardrules.JUDGES, **activerules.JUDGES,
    "SHM-SMALL": _shm, "LIMIT-NOFILE": _nofile, "LIMIT-MEMLOCK": _memlock, "DISK-FILLING": _disks, "MEM-LOW": _memory, "THP-NEVER": _thp,
    "OMP-SPIN": _spin, "OMP-THREADS": _threads, "NCCL-ENV-HARMFUL": _harmful, "ENV-OLD-NAMES": _old, "ALLOC-CONF-TWICE": _twice,
    "CPU-AVX2": _flag("avx2"), "CPU-AVX512": _flag("avx512f"), "CPU-GOVERNOR": _governor, "NO-COMPILER": _compiler, "FD-TABLE": _files,
    "PORT-BUSY": _port, "GPU-DRIVER": _driver, "GPU-COUNT": _count, "THERM-SW": _temperature, "MEM-ZOMBIE": _zombies,
    "GPU-RECOVERY": _each("recovery", lambda v: v != 0, lambda _, v: {"action": RECOVERY.get(int(v), f"do action {v:g}")}),
    "ECC-DBE": _each("ecc", lambda v: v > 0, lambda _, v: {"n": f"{v:g}"}),
    "ROW-PENDING": _each("rows_pending", lambda v: v > 0, lambda _c, _v: {}),
    "ROW-FAIL": _each("rows_failed", lambda v: v > 0, lambda _c, _v: {}),
    "THERM-HW": _each("clocks", lambda v: bool(slow_reasons(int(v))), lambda _, v: {"reasons": " and ".join(slow_reasons(int(v)))}),
    "PERSIST-OFF": _each("persistence", lambda v: v == 0, lambda _c, _v: {}),
    "PWR-CAP": _less("power_limit", "power_default", unit=1000.0, slack=0.99),
    "PCIE-WIDTH": _less("pcie_width", "pcie_width_max"),
    "PCIE-GEN": _less("pcie_gen", "pcie_gen_max", only_busy=True),
}  # fmt: skip


def findings(case: Case, host: str, place: str = "this machine") -> list[Finding]:
    """What is wrong with a machine, of what could be looked at; `place` is how its state is quoted."""
    found: list[Finding] = []
    for rule_id, judge in JUDGES.items():
        rule = catalogue()[rule_id]
        fact = case.facts.get(rule.needs[0])
        if fact is None or isinstance(fact, str):
            continue
        for text, words in judge(case):
            severity = cast("Severity", words.get("severity", rule.severity))
            title, cause, fix, verify = (_fill(t, words) for t in (rule.title, rule.cause, rule.fix, rule.verify))
            whose = str(words.get("host", host))
            finding = Finding(rule, title, cause, fix, verify, severity, whose, str(words.get("gpu", "")))
            finding.evidence.append(Evidence(place, 0, text))
            found.append(finding)
    return found


def _fill(template: str, words: dict[str, object]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: str(words.get(m[1], "")), template)
