"""Makes a case of what the reader found: kinds of logs, who speaks in which file, serving options, places of ranks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from dsctl.doctor import serving
from dsctl.doctor.model import Case, LogSource
from dsctl.facts.logscan import Scan
from dsctl.facts.logtext import NCCL_PREFIX, read

# Lines that are no fault but tell about the deployment.
LITERALS = (
    "nranks ", "world_size", "world size", "non-default args", "serverargs(", "initializing a v", "vllm serve", "sglang.launch_server", "sglang serve",
    "api server args", "loading model weights took", "model loading took", "weights memory:", "available kv cache memory", "reserved for kv cache is",
    "load weight begin", "load weight end", "memory pool end", "total_gpu_memory", "application startup complete", "failure detected by watchdog at work",
    "last enqueued nccl work", "nproc_per_node", "nproc-per-node", "init torch distributed end", "entrypoint", "successfully assigned", "nfs: server", "status is now: nodeready", "link up", "link is up", "iuse%",
)  # fmt: skip

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("kernel log", r"\bkernel: |NVRM: |\[ *\d+\.\d{6}\] |Linux version \d|\boom-kill:|Kill(?:ed)? process \d+|nvidia-nvswitch\d|kern  ?:"),
        ("container log", r"docker|containerd|kubelet|nvidia-container|Error response from daemon|Back-off|[Pp]od[/ ]|kubectl|compose"),
        ("nginx log", r"\[(?:error|crit|warn|alert|emerg|notice)\] \d+#\d+:"),
        ("fabric manager log", r"[Ff]abric ?[Mm]anager|nv-fabricmanager|NVSwitch"),
        ("app log", r"INFO|WARN|ERROR|Traceback|NCCL|torch|vllm|sglang|python|uvicorn|rank|cuda|CUDA"),
    )
)  # fmt: skip
KINDS = tuple(kind for kind, _ in _KINDS)
_RANK_IN_NAME = (
    re.compile(r"rank[_.-]?(\d{1,5})", re.IGNORECASE),
    re.compile(r"(?:^|[/_.-])(?:worker|proc|tp)[_.-]?(\d{1,4})(?=\.|$|[_-])", re.IGNORECASE),
    re.compile(r"attempt_\d+/(\d{1,4})/std(?:err|out)"),
)
_HOST_IN_NAME = re.compile(
    r"(?:^|[/_])(?P<h>(?=[a-z0-9-]*[a-z])(?:[a-z]+[a-z0-9]*-)*[a-z]*(?:node|gpu|host|worker|dgx|hgx|srv|server|box|rack|a100|h100|h200|h800|b200)[a-z0-9]*(?:-[a-z0-9]+)*?)(?=[./_]|-rank|$|-dmesg|-kern|-engine|-vllm)",
    re.IGNORECASE,
)
_SYSLOG_HOST = re.compile(
    r"^(?:[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) (?P<h>[A-Za-z0-9][\w.-]*) [\w./@-]+(?:\[\d+\])?: ",
    re.MULTILINE,
)
_NCCL_HOST = re.compile(r"^(?:\[[^\]]{19}\] )?(?P<h>[A-Za-z][\w.-]{1,60}):\d+:\d+ \[-?\d+\]", re.MULTILINE)
_INIT = re.compile(r"\brank (?P<rank>\d{1,5}) nranks (?P<n>\d{1,5}).*?(?:busId (?P<bus>[0-9a-fA-F]+))?\b")
_RANK_MARK = re.compile(
    r"\[rank(\d{1,5})\]|\[Rank (\d{1,5})\]|Worker_(?:DP\d+_)?(?:PP\d+_)?TP(\d{1,4})|Worker rank=(\d{1,5})| TP(\d{1,4})[\] ]|^\[\d+,(\d+)\]<std|\[default(\d{1,4})\]:",
    re.MULTILINE,
)
_WORLD = re.compile(r"(?:world[_ ]size|WORLD_SIZE)['\"]?\s*[=: ]\s*\[?(?P<n>\d{1,5})\b")
_PER_NODE = re.compile(r"nproc[_-]per[_-]node[=: ]+(?P<n>\d{1,5})")
_NODES = re.compile(r"\bnnodes[=: ]+(?P<n>\d{1,5})")


def kinds_of(text: str) -> frozenset[str]:
    """Which kinds of log a text is; text that is none of them counts as a program's log."""
    found = frozenset(kind for kind, pattern in _KINDS if pattern.search(text))
    return found or frozenset({"app log"})


def source(scan: Scan) -> LogSource:
    """What a file is and who speaks in it."""
    sample = scan.head + scan.tail
    path = PurePath(scan.file)
    tail = "/".join(path.parts[-3:])
    rank = next((int(m[1]) for pattern in _RANK_IN_NAME if (m := pattern.search(tail))), None)
    if rank is None:
        told = {int(m["rank"]) for m in _INIT.finditer(sample)}
        rank = told.pop() if len(told) == 1 and not _RANK_MARK.search(sample) else None
    return LogSource(scan.file, kinds_of(sample), _host(sample, tail), rank, scan.tail, scan.lines)


_KERNEL_NAME = re.compile(
    r"(?:^|/)(?P<h>[a-z][a-z0-9]*-?\d+)[-_.](?:dmesg|kern(?:el)?|journal|syslog|messages)\b", re.IGNORECASE
)


def _host(sample: str, name: str) -> str:
    for pattern in (_SYSLOG_HOST, _NCCL_HOST):
        names = [m["h"] for m in pattern.finditer(sample[:200_000])]
        if names and len(set(names)) == 1:
            return names[0]
    if found := re.search(r"^\s*host +: (?P<h>\S+)", sample, re.MULTILINE):
        return found["h"]
    if kernel := _KERNEL_NAME.search(name):
        return kernel["h"]
    found = list(_HOST_IN_NAME.finditer(name))
    return (
        re.sub(r"\.(?:log|txt|out|err)$", "", found[-1]["h"])
        if found and any(c.isdigit() for c in found[-1]["h"])
        else ""
    )


def build(scans: Iterable[Scan]) -> Case:
    """The case of these logs."""
    case = Case()
    for scan in scans:
        case.hits += scan.hits
        case.sources[scan.file] = source(scan)
    _name_hosts(case)
    _read_options(case)
    return case


def _name_hosts(case: Case) -> None:
    """A file that names no host belongs to the host whose name its path carries, where another log has told that name."""
    hosts = {known.host for known in case.sources.values() if known.host}
    hosts |= {hit.said.host for hit in case.hits if hit.said.host and hit.said.host[0].isalpha()}
    told: dict[str, set[str]] = {}
    for hit in case.hits:
        if hit.said.host and hit.said.host[0].isalpha():
            told.setdefault(hit.file, set()).add(hit.said.host)
    for known in case.sources.values():
        if not known.host and len(told.get(known.name, ())) == 1:
            (known.host,) = told[known.name]
        if not known.host:
            words = re.split(r"[/_.]", known.name)
            known.host = next((word for word in reversed(words) if word in hosts), "")


def _read_options(case: Case) -> None:
    """Serving options that the engines printed themselves; later configuration goes before them."""
    for hit in case.hits:
        low = hit.said.text.lower()
        found: dict[str, str] = {}
        if "serverargs(" in low or "non-default args" in low or "initializing a v" in low or "api server args" in low:
            found = serving.from_repr(hit.said.text)
            if "serverargs(" in low:
                found["engine"] = "sglang"
            elif "non-default args" in low or "initializing a v" in low:
                found["engine"] = "vllm"
        elif "vllm serve" in low or "sglang.launch_server" in low or "sglang serve" in low or "entrypoint" in low:
            found = serving.from_command(hit.said.text)
        for name, value in found.items():
            case.settings.setdefault(name, value)
        if found and not case.origin:
            case.origin = f"{hit.file}:{hit.number}"


def world(case: Case) -> int | None:
    """How many ranks the job has, where the logs or the options tell."""
    sizes: list[int] = []
    per_node = nodes = 0
    for hit in case.hits:
        text = hit.said.text
        if found := _INIT.search(text):
            sizes.append(int(found["n"]))
        if found := _WORLD.search(text):
            sizes.append(int(found["n"]))
        if found := _PER_NODE.search(text):
            per_node = int(found["n"])
            if nodes_found := _NODES.search(text):
                nodes = int(nodes_found["n"])
    if per_node:
        sizes.append(per_node * max(1, nodes))
    for name in ("world", "tp"):
        size = serving.number(case.settings, name)
        if size and size > 1:
            sizes.append(int(size * (serving.number(case.settings, "pp") or 1 if name == "tp" else 1)))
    return max(sizes) if sizes and max(sizes) > 1 else None


def places(case: Case) -> tuple[dict[int, str], dict[int, str]]:
    """rank → host, and rank → PCI bus number of its card, from NCCL's own start-up lines and from who says what."""
    hosts: dict[int, str] = {}
    buses: dict[int, str] = {}
    for hit in case.hits:
        if (found := _INIT.search(hit.said.text)) and (prefix := NCCL_PREFIX.match(hit.said.text)):
            hosts[int(found["rank"])] = prefix["host"]
            if found["bus"]:
                buses[int(found["rank"])] = found["bus"].lower()
    for hit in case.hits:
        rank, host = case.rank_of(hit), case.host_of(hit)
        if rank is not None and host:
            hosts.setdefault(rank, host)
    for known in case.sources.values():
        if known.rank is not None and known.host:
            hosts.setdefault(known.rank, known.host)
    return hosts, buses


def speakers(case: Case) -> dict[int, set[str]]:
    """rank → files in which it says something."""
    found: dict[int, set[str]] = {}
    for known in case.sources.values():
        if known.rank is not None:
            found.setdefault(known.rank, set()).add(known.name)
            continue
        for mark in _RANK_MARK.finditer(known.tail):
            found.setdefault(int(next(g for g in mark.groups() if g)), set()).add(known.name)
    return found


def last_words(case: Case, rank: int) -> tuple[str, int, str] | None:
    """(file, line, text) of the last line that a rank said, in the part of the log that was kept."""
    best: tuple[str, int, str] | None = None
    for known in case.sources.values():
        lines = known.tail.splitlines()
        for back, raw in enumerate(reversed(lines)):
            said = read(raw[:4000])
            mine = next((r for r in (said.rank, known.rank, said.local) if r is not None), None)
            if said.text.strip() and mine == rank:
                number = known.lines - back
                if best is None or known.rank == rank:
                    best = (known.name, number, said.shown.strip()[:300])
                break
    return best


def exception_of(case: Case, rank: int) -> tuple[str, int, str] | None:
    """(file, line, text) of the last uncaught exception among a rank's lines."""
    pattern = re.compile(r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\b:? ?.*")
    for known in case.sources.values():
        if "Traceback" not in known.tail:
            continue
        lines = known.tail.splitlines()
        for back, raw in enumerate(reversed(lines)):
            said = read(raw[:4000])
            mine = next((r for r in (said.rank, known.rank, said.local) if r is not None), None)
            if mine == rank and pattern.match(said.text):
                return known.name, known.lines - back, said.shown.strip()[:300]
    return None
