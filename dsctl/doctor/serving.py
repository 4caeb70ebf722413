"""The serving options in one vocabulary, whichever engine's flags, log line or file they came from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

# canonical name → spellings, without leading dashes and with "_" for "-"
NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model", "model_path", "model_tag"),
    "tp": ("tensor_parallel_size", "tp", "tp_size", "tensor_parallel"),
    "pp": ("pipeline_parallel_size", "pp", "pp_size", "pipeline_parallel"),
    "dp": ("data_parallel_size", "dp", "dp_size"),
    "util": ("gpu_memory_utilization",),
    "mem_fraction": ("mem_fraction_static",),
    "kv_ratio": ("kv_cache_ratio",),
    "max_len": ("max_model_len", "context_length", "max_seq_len", "context_len"),
    "max_seqs": ("max_num_seqs", "max_running_requests", "max_batch_size"),
    "step_tokens": ("max_num_batched_tokens", "chunked_prefill_size", "max_prefill_tokens"),
    "kv_dtype": ("kv_cache_dtype",),
    "dtype": ("dtype",),
    "quantization": ("quantization",),
    "eager": ("enforce_eager", "disable_cuda_graph"),
    "graph_bs": ("cuda_graph_max_bs",),
    "sleep_mode": ("enable_sleep_mode", "enable_memory_saver"),
    "world": ("world_size",),
    "port": ("port",),
}
CANON = {spelling: name for name, spellings in NAMES.items() for spelling in reversed(spellings)}
_ASSIGN = re.compile(r"""['"]?\b(?P<key>[a-z][a-z_]{1,40})['"]?\s*[:=]\s*(?P<value>'[^']*'|"[^"]*"|[\w./+-]+)""")
_SGLANG = (
    "mem_fraction_static",
    "chunked_prefill_size",
    "max_running_requests",
    "cuda_graph_max_bs",
    "model_path",
    "tp_size",
    "context_length",
)
_VLLM = ("gpu_memory_utilization", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "enforce_eager")


def canonical(options: Mapping[str, object]) -> dict[str, str]:
    """Known options under their canonical names; None and empty values are left out."""
    found: dict[str, str] = {}
    for key, value in options.items():
        name = CANON.get(key.strip("-").replace("-", "_").lower())
        text = str(value).strip("'\"")
        if name and text not in ("", "None", "null", "auto", "0" if name == "max_len" else "None"):
            found.setdefault(name, text)
    keys = {key.strip("-").replace("-", "_") for key in options}
    if keys & set(_SGLANG):
        found.setdefault("engine", "sglang")
    elif keys & {"kv_cache_ratio", "replicas", "kv_cache_tokens"}:
        found.setdefault("engine", "dsctl")
    elif keys & set(_VLLM):
        found.setdefault("engine", "vllm")
    return found


def from_command(text: str) -> dict[str, str]:
    """Options of a command line (`vllm serve M --max-model-len 8192`, or flags alone)."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=False)
    except ValueError:
        words = text.split()
    options: dict[str, object] = {}
    for at, word in enumerate(words):
        if not word.startswith("--") and word not in ("-tp", "-pp", "-dp"):
            continue
        key, equals, value = word.lstrip("-").partition("=")
        following = words[at + 1] if at + 1 < len(words) else ""
        options[key.replace("-", "_")] = (
            value if equals else ("true" if not following or following.startswith("-") else following)
        )
    found = canonical(options)
    for at, word in enumerate(words[:-1]):
        if word == "serve" and not words[at + 1].startswith("-"):
            found.setdefault("model", words[at + 1])
            found.setdefault("engine", "vllm")
    if "sglang.launch_server" in text or "sglang serve" in text:
        found["engine"] = "sglang"
    elif "vllm" in text:
        found["engine"] = "vllm"
    return found


def from_repr(text: str) -> dict[str, str]:
    """Options that an engine printed at its start (`ServerArgs(...)`, `non-default args: {...}`)."""
    return canonical({m["key"]: m["value"] for m in _ASSIGN.finditer(text[:20000])})


def number(settings: Mapping[str, str], name: str) -> float | None:
    """A numeric option, or None."""
    try:
        return float(settings[name])
    except (KeyError, ValueError):
        return None
