"""Reads an out-of-memory message of any generation of PyTorch and says which of the causes it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GIB = 1 << 30
_UNITS = {
    "bytes": 1,
    "b": 1,
    "kib": 1 << 10,
    "kb": 1000,
    "mib": 1 << 20,
    "mb": 10**6,
    "gib": GIB,
    "gb": 10**9,
    "tib": 1 << 40,
    "tb": 10**12,
}
_S = r"[\d.]+ ?(?:bytes|[KMGT]?i?B)"

NEW = re.compile(
    rf"out of memory\.\s+Tried to allocate (?P<req>{_S})\.\s+GPU (?P<gpu>\d+) has a total capaci?ty of (?P<total>{_S}) of which (?P<free>{_S}) is\s+free\.(?P<rest>.*)",
    re.DOTALL,
)
OLD = re.compile(
    rf"out of memory\. Tried to allocate (?P<req>{_S})\s+\(GPU (?P<gpu>\d+);\s+(?P<total>{_S}) total capacity;\s+(?P<alloc>{_S}) already allocated;\s+(?P<free>{_S}) free;\s+(?P<res>{_S}) (?:reserved in total by PyTorch|cached)"
)
_OWN = re.compile(rf"(?:Including non-PyTorch memory, )?this process has (?P<size>{_S})\s+memory\s+in\s+use")
_PROCESS = re.compile(rf"Process (?P<pid>\d+) has (?P<size>{_S})\s+memory\s+in\s+use")
_ALLOWED = re.compile(rf"(?P<size>{_S}) allowed")
_ALLOC = re.compile(rf"Of the allocated memory (?P<size>{_S})\s+is\s+allocated by PyTorch")
_PRIVATE = re.compile(rf"with (?P<size>{_S})\s+allocated\s+in\s+private\s+pools")
_FRAG = re.compile(rf"(?P<size>{_S}) is\s+reserved\s+by\s+PyTorch\s+but\s+unallocated")

# function names in the traceback → what the engine was doing; the latest in the trace wins
STAGES = (
    ("logprobs", ("compute_prompt_logprobs", "_get_prompt_logprobs", "get_prompt_logprobs", "prompt_logprobs")),
    ("sampler", ("_dummy_sampler_run", "warming up sampler")),
    ("capture", ("capture_model", "in capture", "capture_one_batch_size", "capture_graph", "_capture_cudagraphs", "init_device_graphs", "init_cuda_graphs")),
    ("cache", ("_allocate_kv_cache", "initialize_kv_cache", "init_memory_pool", "MHATokenToKVPool", "MLATokenToKVPool", "_create_buffers", "initialize_cache")),
    ("profile", ("profile_run", "determine_num_available_blocks", "determine_available_memory")),
    ("load", ("load_weights", "load_model", "initialize_model", "_initialize_model", "process_weights_after_loading", "create_weights", "from_pretrained", "_load_state_dict_into_meta_model")),
    ("train", (".backward(", "loss.backward", "optimizer.step", "run_backward", "training_step", "train.py", "accelerator.backward")),
    ("run", ("execute_model", "forward_extend", "forward_decode", "forward_batch_generation", "run_batch", "event_loop", "step_async", "generate(", ".generate")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Oom:
    """One message, in bytes. `own` is what this process holds, None where the message does not tell."""

    gpu: int
    requested: int
    total: int
    free: int
    allocated: int | None
    unallocated: int  # reserved by PyTorch but not handed out
    private: int
    own: int | None
    allowed: int | None
    holders: tuple[tuple[int, int], ...]  # (pid, bytes) of other processes that the message names

    @property
    def others(self) -> int:
        """Memory that neither this process holds nor is free."""
        if self.own is None:
            return 0
        return max(0, self.total - self.free - self.own)


def size(text: str) -> int:
    """`1.25 GiB` in bytes."""
    found = re.match(r"([\d.]+) ?([A-Za-z]+)", text.strip())
    return int(float(found[1].rstrip(".")) * _UNITS[found[2].lower()]) if found else 0


def _one(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return size(found["size"]) if found else None


def parse(text: str) -> Oom | None:
    """The numbers of the first message in `text`, or None. Line breaks inside the message are fine."""
    text = " ".join(text.split())  # a terminal may have broken the message anywhere
    try:
        if found := NEW.search(text):
            return _new(found)
        if found := OLD.search(text):
            total, free, reserved, alloc = (size(found[k]) for k in ("total", "free", "res", "alloc"))
            own = reserved + min(GIB, total // 32)  # the CUDA context is not in the message
            own = min(own, total - free) if total > free else own
            return Oom(
                int(found["gpu"]), size(found["req"]), total, free, alloc, max(0, reserved - alloc), 0, own, None, ()
            )
    except (ValueError, KeyError, OverflowError):
        return None
    return None


def _new(found: re.Match[str]) -> Oom:
    rest = found["rest"][:2000]
    alloc, frag = _one(_ALLOC, rest), _one(_FRAG, rest) or 0
    own = _one(_OWN, rest)
    named = [(int(m["pid"]), size(m["size"])) for m in _PROCESS.finditer(rest)]
    if own is None and named and alloc is not None:  # inside a container the own process is named by its pid
        mine = min(named, key=lambda entry: abs(entry[1] - alloc - frag))
        if len(named) > 1 or mine[1] >= alloc:
            own = mine[1]
            named.remove(mine)
    return Oom(
        int(found["gpu"]), size(found["req"]), size(found["total"]), size(found["free"]), alloc, frag,
        _one(_PRIVATE, rest) or 0, own, _one(_ALLOWED, rest), tuple(named),
    )  # fmt: skip


def classify(oom: Oom) -> str:
    """The id of the rule that names the cause."""
    if oom.requested > oom.total:
        return "OOM-IMPOSSIBLE"
    if oom.allocated is not None and oom.allocated > oom.total:
        return "OOM-SYSMEM-FALLBACK"
    if oom.allowed is not None and oom.free >= oom.requested and oom.allowed < oom.total * 0.98:
        return "OOM-FRACTION-LIMIT"
    if oom.others > max(GIB, oom.total // 20):
        return "OOM-OTHER-PROC"
    if oom.private > oom.total // 5:
        return "OOM-GRAPH-POOLS"
    if oom.unallocated >= oom.requested and oom.unallocated >= oom.total // 50:
        return "OOM-FRAG"
    return "OOM-CAPACITY"


def stage(before: Sequence[str], window: str) -> str:
    """What was being done: load, profile, cache, capture, sampler, logprobs, run, train, or "" when the trace is silent.

    The innermost frames stand last; a stage listed first in STAGES is more specific than one listed later.
    """
    if re.search(r"[Cc]apture (?:CUDA|cuda) ?graph failed", window):
        return "capture"
    trace = _traceback(before)
    for name, words in STAGES:
        if any(word in line for line in trace for word in words):
            return name
    if "CUDA graph" in window and "capture" in window:
        return "capture"
    return "train" if any(word in window for word in (".backward(", "optimizer.step(", "training_step")) else ""


def _traceback(before: Sequence[str]) -> list[str]:
    """The lines of the last traceback before the message."""
    for at in range(len(before) - 1, -1, -1):
        if "Traceback (most recent call last)" in before[at]:
            return list(before[at:])
    return [line for line in before[-40:] if 'File "' in line]


def engine(text: str) -> str:
    """Which program's frames or words stand in `text`: vllm, sglang, dsctl, transformers or ""."""
    for name, words in (
        ("sglang", ("sglang/srt", "sglang.srt", "sglang.launch_server", "ServerArgs(", "mem_fraction_static")),
        ("vllm", ("/vllm/", "vllm serve", "vllm.entrypoints", "EngineCore", "[gpu_model_runner.py", "[core.py", "vllm.engine", "(VllmWorker", "(Worker_TP", "(Worker_DP", "(Worker_PP", "[multiproc_executor.py", "gpu_memory_utilization")),
        ("dsctl", ("engine/core/", "engine.core", "engine/running/")),
        ("transformers", ("transformers/", "accelerate/", "diffusers/")),
    ):  # fmt: skip
        if any(word in text for word in words):
            return name
    return ""
