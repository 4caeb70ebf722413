"""Works out what a table entry cannot say by itself: card, rank, signal or exact value of one case."""

from __future__ import annotations

import re

from dsctl.doctor import forgiven, memorycase, xid
from dsctl.doctor.hints import hint
from dsctl.doctor.model import Case, Match, Refine, Words

SIGNALS = {
    "-9": "SIGKILL: the kernel's memory killer, a container limit or an operator", "-11": "SIGSEGV: a crash in native code",
    "-7": "SIGBUS: /dev/shm is full", "-6": "SIGABRT: an abort, often by NCCL's watchdog after a time-out", "-4": "SIGILL: instructions this CPU does not have",
    "-15": "SIGTERM: someone stopped it", "137": "SIGKILL: out of memory or docker kill", "1": "an uncaught exception, see its traceback",
}  # fmt: skip
NOTHING = Words(rule="(none)")


def xid_line(match: Match, _case: Case) -> Words | None:
    """An Xid: the card, the program, and the driver's own verdict where it gives one."""
    found = xid.LINE.search(match.hit.said.text)
    if found is None:
        return NOTHING
    entry = xid.BY_NUMBER.get(int(found["xid"]))
    bdf, rest = found["bdf"].lower(), (found["rest"] or "").strip()
    place = bdf + (f" (MIG instance {found['gi']})" if found["gi"] else "")
    if entry is None:
        rule = match.rule
        return Words(cause=rule.cause.format(bdf=place, xid=found["xid"]), verify=rule.verify.format(bdf=bdf), gpu=bdf)
    fix, verify = match.rule.fix, match.rule.verify
    cause = f"GPU {place} reported Xid {entry.number}: {entry.meaning}."
    severity = None
    if entry.number == 154 and (act := xid.RECOVERY.search(rest)):
        if act["new"].lower() == "none":
            return NOTHING
        cause += f" It now asks for: {act['new']} (before: {act['old']})."
        fix = fix.replace("{new}", act["new"]) + " Drain this host first."
    if link := xid.NVLINK5.search(rest):
        severity = "critical" if link["sev"] == "Fatal" else "warning"
        cause += (
            f" Link {link['link']}, {link['sev'].lower()}, unit {link['unit']}, sub-code {xid.sub_code(link['info'])}."
        )
    if program := re.search(r"pid='?(?P<pid>\d+)'?, name=(?P<name>[^,\s]+)", rest):
        cause += f" Program: {program['name']} (pid {program['pid']})."
    title = f"{match.rule.title} (GPU {bdf})"
    return Words(
        title=title,
        cause=cause,
        fix=fix.replace("{bdf}", bdf).replace("{new}", "the action it names"),
        verify=verify.replace("{bdf}", bdf),
        gpu=bdf,
        severity=severity,
    )


def tp_heads(match: Match, _case: Case) -> Words | None:
    """The tensor parallel sizes that divide the heads."""
    heads = match.groups.get("heads") or match.groups.get("heads2")
    parallel = match.groups.get("tp") or match.groups.get("tp2")
    if not heads or not parallel or len(heads) > 9 or not 2 <= int(parallel[:9]) <= 4096:
        return None
    if not match.groups.get("heads") and not re.search(r"assert|parallel|partition|divide|Error", match.hit.said.text):
        return NOTHING
    fits = [n for n in range(1, int(parallel)) if int(heads) % n == 0]
    near = fits[-1] if fits else 1
    return Words(
        cause=f"{heads} heads (or columns) cannot be split over {parallel} cards: {heads} / {parallel} is no whole number.",
        fix=f"Set --tensor-parallel-size {near} (sizes that divide {heads}: {', '.join(map(str, fits))}); use the other cards with --pipeline-parallel-size or as further replicas.",
    )


def exit_signal(match: Match, _case: Case) -> Words | None:
    """What an exit code means."""
    code = match.groups.get("code") or match.groups.get("code2") or ""
    meaning = SIGNALS.get(code)
    return Words(cause=f"A child process ended with exit code {code} ({meaning}).") if meaning else None


CORE_SIGNALS = {
    9: ("the kernel's memory killer, a container's limit, or an operator (kill -9)", "`dmesg -T | grep -i 'killed process'` on that host, and the container's memory limit. If memory: lower --kv-cache-ratio, use --quantization int8, or run fewer replicas there."),
    11: ("a crash in native code", "Start once with --kernels reference: if it stays up, report the log and `lscpu`; if not, reinstall torch and numpy as one set (a clean environment). Repeated crashes at random places: test the RAM (memtest, `dmesg -T | grep -i mce`)."),
    7: ("a bus error: the file of packed weights or /dev/shm lost its disk space under a mapping", "`df -h` of the cache directory and /dev/shm: make room; delete the *.pack file and restart, it is made again."),
    4: ("an instruction that this processor does not have", "`lscpu | grep avx`: the compiled kernels were built on another machine (a shared or copied cache): delete ~/.cache/dsctl/kernels and restart; in a virtual machine pass the host's CPU model through."),
    6: ("an abort of native code", "The lines before it name the assertion; start once with --kernels reference and report the log."),
    15: ("SIGTERM from outside: an operator, systemd or the container runtime", "Stop replicas with `dsctl drain` or `dsctl down`, not their cores."),
    19: ("SIGSTOP from outside", "Look who stops processes here (a debugger, a freezer, a batch system)."),
}  # fmt: skip


def core_signal(match: Match, _case: Case) -> Words | None:
    """What a signal that killed our engine's core means."""
    meaning, fix = CORE_SIGNALS.get(int(match.groups.get("code") or 0), ("", ""))
    code = match.groups.get("code")
    return (
        Words(cause=f"The core died of signal {code}: {meaning}. Its requests were replayed.", fix=fix) if fix else None
    )


def ib_event(match: Match, _case: Case) -> Words | None:
    """A port error is fatal for the job, a changed GID table may not be."""
    return Words(severity="critical") if re.search(r"fatal event|port error", match.hit.said.text) else None


SHELL_SIGNALS = {
    "139": ("11, a segmentation fault in native code", "`dmesg -T | grep segfault` names the library; install engine, torch and extensions as one matching set (the engine's own image); look for Xid lines at that time."),
    "134": ("6, an abort of native code", "The lines before it name the assertion or the watchdog that aborted; after a collective time-out look at the other ranks."),
    "135": ("7, a bus error: /dev/shm or a mapped file lost its space", "docker run --shm-size=16g (or --ipc=host), `df -h` of the weights' disk; Kubernetes: emptyDir with medium: Memory on /dev/shm."),
    "132": ("4, an instruction this processor does not have", "`lscpu | grep avx`; use a build for this CPU, or give the virtual machine the host's CPU model (host-passthrough)."),
}  # fmt: skip


def exit_shell(match: Match, _case: Case) -> Words | None:
    """What an exit code above 128 means."""
    code = match.groups.get("code", "")
    meaning, fix = SHELL_SIGNALS.get(code, ("", ""))
    return Words(cause=f"The program ended with exit code {code}: signal {meaning}.", fix=fix) if fix else None


def mpi(match: Match, _case: Case) -> Words | None:
    """The rank and host that mpirun names."""
    return Words(host=match.groups["host"], ranks=(int(match.groups["rank"][:6]),))


def nccl_words(match: Match, _case: Case) -> Words | None:
    """What NCCL itself said about its failure: the line after 'Last error', or its last warning before."""
    told = re.search(r"Last error:\s*\n?(?:\[rank\d+\]:\s*)?(?:[^\n]{0,80}\] )?(?P<v>[^\n]{4,240})", match.hit.window)
    if told is None:
        warned = (re.search(r"NCCL WARN (?P<v>[^\n]{4,240})", line) for line in reversed(match.hit.before))
        told = next((found for found in warned if found), None)
    return Words(cause=f"{match.rule.cause} NCCL's own words: «{told['v'].strip()}».") if told else None


def elastic(match: Match, _case: Case) -> Words | None:
    """torchrun's report: which rank on which host failed first, and how."""
    window = match.hit.window
    code = match.groups.get("code") or match.groups.get("code2") or "?"
    host = re.search(r"host +: (?P<v>\S+)", window)
    rank = re.search(r"rank +: (?P<v>\d+)", window)
    if match.groups.get("code2") and not rank:  # the summary has host and rank above the exit code
        around = "\n".join(match.hit.before[-4:])
        host, rank = re.search(r"host +: (?P<v>\S+)", around), re.search(r"rank +: (?P<v>\d+)", around)
    who = f"Rank {rank['v']}" if rank else f"Local rank {match.groups.get('local') or '?'}"
    where = f" on {host['v']}" if host else ""
    meaning = SIGNALS.get(code, "see its own output")
    return Words(
        cause=f"{who}{where} ended with exit code {code} ({meaning}); torchrun stopped the others.", host=host["v"] if host else "",
        ranks=(int(rank["v"]),) if rank else (),
    )  # fmt: skip


def aer(match: Match, _case: Case) -> Words | None:
    """Uncorrected PCIe errors are worse than corrected ones."""
    kind = match.groups.get("kind", "")
    if "Fatal" in kind and "Non-Fatal" not in kind:
        return Words(severity="critical")
    return None


def shm(match: Match, _case: Case) -> Words | None:
    """How much shared memory was asked for."""
    asked = match.groups.get("bytes") or match.groups.get("size")
    path = match.groups.get("path", "/dev/shm")
    if not asked:
        return None
    return Words(
        cause=f"NCCL could not grow {path} to {int(asked) / (1 << 20):.1f} MiB: /dev/shm is full or has Docker's default of 64 MiB, and NCCL keeps its buffers there."
    )


def shmbc(match: Match, case: Case) -> Words | None:
    """Waiting while the engine compiles or captures is normal; only after it was ready is it a hang."""
    source = case.sources.get(match.hit.file)
    before = "\n".join(match.hit.before)
    ready = "Application startup complete"
    if source and ready in source.tail and ready not in before:
        at = next((hit.number for hit in case.hits if hit.file == match.hit.file and ready in hit.said.text), None)
        if at is None or match.hit.number < at:
            return NOTHING
    return None


def nccl_mixed(_match: Match, case: Case) -> Words | None:
    """Hosts that say at start that they run different versions of NCCL."""
    said: dict[str, set[str]] = {}
    for source in case.sources.values():
        for found in re.finditer(
            r"^\S*?(?P<host>[A-Za-z][\w.-]*):\d+:\d+ [^\n]{0,40}NCCL version (?P<v>\d[\w.]*)", source.tail, re.M
        ):
            said.setdefault(found["v"], set()).add(found["host"])
    if len(said) < 2:
        return None
    who = "; ".join(f"{version} on {', '.join(sorted(hosts))}" for version, hosts in sorted(said.items()))
    return Words(
        title="The hosts run different versions of NCCL",
        cause=f"NCCL is not the same everywhere ({who}), and versions do not understand each other's messages.",
        fix="Use one image (or the same torch and nvidia-nccl wheel) on all hosts: `python -c 'import torch; print(torch.cuda.nccl.version())'` must print the same there; remove stray copies (LD_LIBRARY_PATH, LD_PRELOAD, VLLM_NCCL_SO_PATH).",
    )


def barrier(match: Match, _case: Case) -> Words | None:
    """The ranks that a monitored barrier names."""
    ranks = tuple(int(n) for n in re.findall(r"\b\d{1,5}\b", match.groups.get("ranks", "")))
    return Words(
        ranks=ranks,
        title=f"Rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} did not come to the barrier",
    )


def mismatch(match: Match, _case: Case) -> Words | None:
    """Which ranks called what, by the checks of TORCH_DISTRIBUTED_DEBUG=DETAIL."""
    said = match.groups
    if not said.get("r") or not said.get("r2"):
        return None
    same = said["a"] == said["b"]
    what = (
        f"both {said['a']} but with other shapes or types"
        if same
        else f"{said['a']} on rank {said['r']}, {said['b']} on rank {said['r2']}"
    )
    return Words(
        cause=f"At call {said.get('n') or '?'} the ranks run different collectives: {what}. The program took different paths on the ranks.",
        ranks=(int(said["r"][:6]), int(said["r2"][:6])),
    )


def flag_value(match: Match, _case: Case) -> Words | None:
    """The values that the message itself allows, with the one closest to what was given."""
    why = match.groups.get("why", "")
    if "cannot be converted" in why:
        return Words(
            fix='The value is JSON and the shell took its quotes: put single quotes around it and double quotes inside, e.g. --speculative-config \'{"method": "mtp", "num_speculative_tokens": 1}\'; in YAML or compose one string, in JSON inside a shell script no nested quotes.',
        )
    return Words(fix=way) if (way := hint(why)) else None


def smaller_fit(match: Match, case: Case) -> Words | None:
    """A refused allocation after which the same log says that the server listens is no fault."""
    tail = next((source.tail for source in case.sources.values() if source.name == match.hit.file), "")
    _, _, later = tail.rpartition(match.hit.said.text[-80:])
    return NOTHING if "server is listening" in later else None


BY_NAME: dict[str, Refine] = {
    "torch_oom": memorycase.torch_oom, "bare_oom": memorycase.bare_oom, "vllm_kv": memorycase.vllm_kv, "vllm_kv_tokens": memorycase.vllm_kv_tokens,
    "vllm_noblocks": memorycase.vllm_noblocks, "vllm_startfree": memorycase.vllm_startfree, "vllm_sampler": memorycase.vllm_sampler,
    "sglang_start": memorycase.sglang_start, "sglang_capture": memorycase.sglang_capture, "host_alloc": memorycase.host_alloc,
    "oomkill": memorycase.oomkill, "xid": xid_line, "tp_heads": tp_heads, "exit_signal": exit_signal, "core_signal": core_signal, "nccl_words": nccl_words, "mpi": mpi, "exit_shell": exit_shell, "ib_event": ib_event, "elastic": elastic, "aer": aer,
    "shm": shm, "shmbc": shmbc, "barrier": barrier, "mismatch": mismatch, "nccl_mixed": nccl_mixed, "unplaced": forgiven.unplaced, "nfs_back": forgiven.nfs_back, "inodes": forgiven.inodes, "node_back": forgiven.node_back, "gave_up": forgiven.gave_up, "link_back": forgiven.link_back, "flag_value": flag_value, "smaller_fit": smaller_fit,
}  # fmt: skip
