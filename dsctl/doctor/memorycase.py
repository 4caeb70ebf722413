"""Works out the numbers of memory rules: which cause, which knob of which engine, and how far to turn it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsctl.doctor import oom, shapes, solver
from dsctl.doctor.model import Case, Match, Option, Words
from dsctl.doctor.serving import number
from dsctl.doctor.solver import GIB, Budget, gib

_TOTALS = re.compile(
    r"\([\d.]+/(?P<t>[\d.]+) GiB\) on startup|total_gpu_memory \((?P<t2>[\d.]+) ?GiB\)|total capaci?ty of (?P<t3>[\d.]+) GiB|; (?P<t4>[\d.]+) GiB total capacity"
)
_WEIGHTS = re.compile(
    r"[Mm]odel (?:loading|weights?) (?:took|take) (?P<w>[\d.]+) ?GiB|mem usage=(?P<w2>[\d.]+) GB|weights memory: (?P<w3>[\d.]+) ?GiB|Loading model weights took (?P<w4>[\d.]+) GB"
)
_AVAIL_AFTER = re.compile(r"Load weight end\..*?avail mem=(?P<a>[\d.]+) GB")
_AVAIL_BEFORE = re.compile(
    r"Load weight begin\. avail mem=(?P<a>[\d.]+) GB|Init torch distributed ends?\..*?avail mem=(?P<a2>[\d.]+) GB"
)
_CACHE = re.compile(r"Available KV cache memory: (?P<c>-?[\d.]+) GiB|reserved for KV Cache is (?P<c2>-?[\d.]+) ?GiB")


@dataclass(frozen=True, slots=True)
class Known:
    """What the log and the configuration tell about the engine and the card. Sizes in GiB."""

    engine: str
    total: float | None
    util: float | None
    weights: float | None
    cache: float | None
    model: shapes.Memory | None
    shape_from: str


def _first(pattern: re.Pattern[str], texts: list[str]) -> float | None:
    for text in texts:
        if found := pattern.search(text):
            return float(next(g for g in found.groups() if g))
    return None


def known(match: Match, case: Case) -> Known:
    """Gathers it: the configuration first, then what the same file printed, then a table of known models."""
    texts = [hit.window for hit in case.hits if hit.file == match.hit.file and hit.number <= match.hit.number + 3]
    texts += [hit.window for hit in case.hits if hit.file != match.hit.file]
    settings = case.settings
    around = "\n".join((*match.hit.before, match.hit.window))
    source = case.sources.get(match.hit.file)
    named = oom.engine(around) or settings.get("engine", "") or oom.engine(f"{source.tail[-20000:]}" if source else "")
    if settings.get("engine") and named in ("", "transformers"):
        named = settings["engine"]
    kv_bytes = 1.0 if settings.get("kv_dtype", "").startswith(("fp8", "int8")) else 2.0
    shape = case.shape or shapes.known(settings.get("model", "")) or {}
    model = shapes.memory(shape, kv_bytes=kv_bytes) if shape else None
    total = _first(_TOTALS, texts) or shapes.card("\n".join(texts)) or (shapes.card(source.tail) if source else None)
    util = number(settings, "util") or (0.9 if named == "vllm" else None)
    return Known(
        named,
        total,
        util,
        _first(_WEIGHTS, texts),
        _first(_CACHE, texts),
        model,
        "config.json" if case.shape else "the model's name",
    )


def torch_oom(match: Match, case: Case) -> Words | None:
    """A message of PyTorch's allocator: the cause, then the fix for the engine and the stage at hand."""
    from dsctl.doctor import memoryfix

    found = oom.parse(match.hit.window)
    facts = known(match, case)
    if found is None:
        return memoryfix.unread(facts)
    stage = oom.stage(match.hit.before, match.hit.window)
    cause = oom.classify(found)
    if cause == "OOM-CAPACITY":
        return memoryfix.capacity(found, stage, facts, case)
    return memoryfix.other(cause, found, stage, facts, case)


def vllm_kv(match: Match, case: Case) -> Words | None:
    """The cache holds less than one sequence: length, share of the card, 8-bit cache, more cards."""
    need, avail, max_len = float(match.groups["need"]), float(match.groups["avail"]), int(match.groups["mml"])
    estimate = int(match.groups["est"]) if match.groups.get("est") else None
    facts = known(match, case)
    budget = Budget(facts.total, facts.util, facts.weights)
    options = solver.rank((
        solver.shorter(need, avail, max_len, estimate),
        solver.more_util(budget, need - avail),
        solver.fp8_cache(need, avail, max_len, case.settings.get("kv_dtype", "")),
        solver.wider(case.settings, facts.model, facts.total, facts.util or 0.9, max_len),
    ))  # fmt: skip
    per_token = need / max_len * 1024 * 1024
    cause = (
        f"One sequence of {max_len} tokens needs {gib(need)} of KV cache ({per_token:.1f} KiB a token); after weights and activations "
        f"{gib(avail)} are left."
    )  # fmt: skip
    if not options:
        return Words(cause=cause, fix=_infeasible("the cache"), options=())
    return Words(cause=cause, fix="Any one of these, best first:\n" + solver.listing(options), options=options)


def vllm_kv_tokens(match: Match, case: Case) -> Words | None:
    """The same, told in tokens."""
    max_len, room = int(match.groups["mml"]), int(match.groups["room"])
    facts = known(match, case)
    options: list[Option | None] = []
    fits = int(room * 0.98) // solver.BLOCK * solver.BLOCK
    if fits >= solver.SHORTEST:
        per_token = facts.cache / room if facts.cache else None
        options.append(
            Option(
                "--max-model-len", str(max_len), str(fits), int((room - fits) * per_token * GIB) if per_token else None
            )
        )
        if per_token:
            options.append(solver.more_util(Budget(facts.total, facts.util), (max_len - room) * per_token))
            options.append(
                solver.fp8_cache(max_len * per_token, facts.cache or 0, max_len, case.settings.get("kv_dtype", ""))
            )
        elif max_len <= room * 2 and not case.settings.get("kv_dtype", "").startswith("fp8"):
            options.append(
                Option(
                    "--kv-cache-dtype",
                    "auto",
                    "fp8",
                    None,
                    f"keeps max_model_len {max_len}: {room * 2} tokens fit; check the quality",
                )
            )
    options.append(solver.wider(case.settings, facts.model, facts.total, facts.util or 0.9, max_len))
    ranked = solver.rank(options)
    if not ranked:
        return Words(fix=_infeasible("the cache"))
    return Words(fix="Any one of these, best first:\n" + solver.listing(ranked), options=ranked)


def vllm_noblocks(match: Match, case: Case) -> Words | None:
    """Nothing left for the cache: the share of the card that would be enough, else more cards."""
    facts = known(match, case)
    max_len = int(number(case.settings, "max_len") or 4096)
    options: list[Option | None] = []
    missing = -facts.cache if facts.cache is not None and facts.cache < 0 else None
    one_sequence = (
        facts.model.kv_per_token * max_len / (number(case.settings, "tp") or 1) / GIB if facts.model else None
    )
    if facts.total and facts.util:
        if missing is not None:
            options.append(solver.more_util(Budget(facts.total, facts.util), missing + (one_sequence or 1.0)))
        elif facts.weights is not None:
            wanted = facts.weights + 2.0 + (one_sequence or 1.0)
            options.append(
                solver.more_util(Budget(facts.total, facts.util), max(0.5, wanted - facts.util * facts.total))
            )
        elif facts.util < 0.9:
            options.append(
                Option(
                    "--gpu-memory-utilization", f"{facts.util:g}", "0.95", None, "only with nothing else on the card"
                )
            )
    options.append(solver.wider(case.settings, facts.model, facts.total, facts.util or 0.9, max_len))
    ranked = solver.rank(options)
    size = f" The weights take {gib(facts.weights)} of {gib(facts.total)}." if facts.weights and facts.total else ""
    cause = (
        "Weights and activations already use all that gpu_memory_utilization allows; nothing is left for the KV cache."
        + size
    )
    if ranked:
        return Words(
            cause=cause,
            fix="Make room for the cache, best first:\n"
            + solver.listing(ranked)
            + "\nLowering --gpu-memory-utilization makes it worse.",
            options=ranked,
        )
    if facts.total and facts.util and (facts.weights or missing is not None):
        return Words(cause=cause, fix=f"Infeasible on this card even at 0.95. {_infeasible('weights and cache')}")
    return Words(
        cause=cause,
        fix="RAISE --gpu-memory-utilization (up to 0.95, with nothing else on the card); if it is there already: lower --max-num-batched-tokens (activations), "
        "double --tensor-parallel-size, or take a quantised checkpoint. Lowering --max-model-len does not help here, lowering the utilisation makes it worse.",
    )  # fmt: skip


def vllm_startfree(match: Match, case: Case) -> Words | None:
    """The card is not free: who holds it, and the largest share that would start."""
    free, total, util = (float(match.groups[k]) for k in ("free", "total", "util"))
    facts = known(match, case)
    held = total - free
    most = solver.floor_to(free / total - 0.01, 0.01)
    options: tuple[Option, ...] = ()
    weights = facts.weights or (facts.model.weights / (number(case.settings, "tp") or 1) / GIB if facts.model else None)
    lead = f"1. Free the card: {gib(held)} are held. `nvidia-smi --query-compute-apps=pid,used_memory --format=csv` names the holders; stop them (an old server may need some seconds to end)."
    if most > (0.3 if weights is None else 0.05) and (weights is None or most * total > weights + 2.0):
        margin = int((free - most * total) * GIB)
        options = (
            Option(
                "--gpu-memory-utilization",
                f"{util:g}",
                f"{most:g}",
                margin,
                "only if the model and its cache fit in it" if weights is None else f"weights {gib(weights)}",
            ),
        )
        lead += "\n" + solver.sentence(options[0], 2)
    else:
        lead += f"\nStarting beside it is infeasible: {gib(free)} do not hold the weights" + (
            f" ({gib(weights)})." if weights else "."
        )
    return Words(
        cause=f"{gib(free)} of {gib(total)} are free at start, {util:g} of the card ({gib(util * total)}) is asked for: another process holds {gib(held)}.",
        fix=lead,
        options=options,
    )


def vllm_sampler(match: Match, case: Case) -> Words | None:
    """Logits of max_num_seqs rows: half of them, until it fits."""
    seqs = int(match.groups["n"])
    facts = known(match, case)
    options = solver.rank((
        Option("--max-num-seqs", str(seqs), str(max(8, seqs // 2)), None, "halves the logits buffer; halve again if it repeats") if seqs > 8 else None,
        solver.less_share("--gpu-memory-utilization", facts.util, 1.0, facts.total, least=_least(facts)) if facts.total else None,
    ))  # fmt: skip
    fix = solver.listing(options) if options else "Lower --max-num-seqs and --gpu-memory-utilization (by 0.05)."
    if not facts.total:
        fix += (
            "\nOr lower --gpu-memory-utilization by 0.05: the cache is placed before, so a smaller cache leaves room."
        )
    return Words(fix=fix, options=options)


def _least(facts: Known) -> float | None:
    return (facts.weights + 2.0) / facts.total if facts.weights and facts.total else None


def sglang_start(match: Match, case: Case) -> Words | None:
    """The static pool holds weights and cache: how far to RAISE it."""
    texts = [hit.said.text for hit in case.hits if hit.file == match.hit.file and hit.number <= match.hit.number]
    before, after = _first(_AVAIL_BEFORE, texts), _first(_AVAIL_AFTER, texts)
    told = re.search(r"Current value: mem_fraction_static=(?P<v>[\d.]+\d)", match.hit.window)
    now = float(told["v"]) if told else number(case.settings, "mem_fraction")
    facts = known(match, case)
    context = number(case.settings, "max_len") or 4096
    cache = (
        facts.model.kv_per_token * context / (1 if facts.model.is_mla else number(case.settings, "tp") or 1) / GIB
        if facts.model
        else 1.0
    )
    options: list[Option | None] = []
    cause = "mem_fraction_static covers weights AND cache (unlike vLLM's gpu_memory_utilization message, the remedy is to RAISE it): after the weights nothing is left for the cache."
    shown = False
    if before and after is not None:
        shown = True
        cause += f" The weights take {gib(before - after)} of {gib(before)}."
        wanted = max(USUAL_STATIC, solver.ceil_to(1 - (after - cache * 1.02) / before, 0.01))
        if wanted <= MOST_STATIC and (now is None or wanted > now):
            options.append(
                Option(
                    "--mem-fraction-static",
                    f"{now:g}" if now else "",
                    f"{wanted:g}",
                    int((wanted * before - (before - after) - cache) * GIB),
                )
            )
    elif now is not None and now < MOST_STATIC:
        options.append(
            Option(
                "--mem-fraction-static",
                f"{now:g}",
                f"{min(MOST_STATIC, round(now + 0.05, 2)):g}",
                None,
                "in steps of 0.05, at most 0.95",
            )
        )
    lead = "RAISE the pool (do not lower it), best first:\n"
    if shown and not options:
        cause += " Even 0.95 of this card is too little."
        lead = "No value of --mem-fraction-static is enough; spread the weights:\n"
    if not options:
        options.append(solver.wider({**case.settings}, facts.model, before or facts.total, 0.88, int(context)))
    ranked = solver.rank(options)
    if ranked:
        return Words(cause=cause, fix=lead + solver.listing(ranked), options=ranked)
    if shown:
        return Words(
            cause=cause,
            fix=f"Infeasible on this card: even 0.95 leaves no room for the cache. {_infeasible('weights and cache').replace('--tensor-parallel-size', '--tp')}",
        )
    return Words(
        cause=cause,
        fix="RAISE --mem-fraction-static by 0.05 (at most 0.95); if it is that high already: double --tp, or take a quantised checkpoint.",
    )


MOST_STATIC = 0.95
USUAL_STATIC = 0.85  # leaves the activations of the default chunks their room on cards of 40 GB and more


def sglang_capture(match: Match, case: Case) -> Words | None:
    """CUDA-graph capture in SGLang: memory needs the pool lowered, anything else is another fault."""
    why = match.groups.get("why", "")
    around = why + " ".join(match.hit.before[-30:]) + match.hit.window
    if "out of memory" not in around and "CUDA error" in around:
        return Words(
            cause=f"Capturing CUDA graphs failed: {why}",
            fix="This is not a lack of memory: look at the CUDA error itself. To get started: --disable-cuda-graph.",
            severity="critical",
        )
    now = number(case.settings, "mem_fraction")
    graphs = number(case.settings, "graph_bs")
    options = solver.rank((
        Option("--mem-fraction-static", f"{now:g}", f"{max(0.3, round(now - 0.05, 2)):g}", None, "leaves room for the graphs") if now else Option("--mem-fraction-static", "the current value", "the current value - 0.05", None, "leaves room for the graphs"),
        Option("--cuda-graph-max-bs", f"{graphs:g}" if graphs else "", f"{max(8, int(graphs // 2)) if graphs else 32}", None, "fewer graphs"),
    ))  # fmt: skip
    return Words(
        fix="LOWER the pool or capture less, best first:\n"
        + solver.listing(options)
        + "\n--disable-cuda-graph only to get started: it costs decode speed.",
        options=options,
    )


def _infeasible(what: str) -> str:
    return f"No flag makes {what} fit on this card: use more cards (--tensor-parallel-size x2), a quantised checkpoint (AWQ, GPTQ, FP8), or a card with more memory."


def bare_oom(match: Match, _case: Case) -> Words | None:
    """Not PyTorch's allocator: nothing to compute, but say when it is a known other case."""
    around = "\n".join((*match.hit.before[-30:], match.hit.window))
    if "Tried to allocate" in match.hit.window or "NCCL WARN" in match.hit.said.text:
        return Words(rule="(none)")
    if "cudaHostAlloc" in around or "pin_memory" in around or "cudaHostRegister" in around:
        return Words(
            cause="Page-locked host memory could not be allocated: the host's RAM or the container's limit is used up, not the card.",
            fix="Lower pinned memory (swap space, CPU offload, DataLoader pin_memory), or give the host or container more RAM.",
        )
    return None


def host_alloc(match: Match, _case: Case) -> Words | None:
    """Host memory: how much was asked for."""
    asked = match.groups.get("bytes")
    if asked and int(asked) > 0:
        return Words(
            cause=f"The host (or the container's memory limit) could not give {gib(int(asked) / GIB)} to this process."
        )
    return None


def oomkill(match: Match, _case: Case) -> Words | None:
    """The size of the killed process."""
    rss, shm = match.groups.get("rss"), match.groups.get("shm")
    if not rss:
        return None
    total = (int(rss) + int(shm or 0)) / (1 << 20)
    name, pid = match.groups.get("name", "?"), match.groups.get("pid", "?")
    if match.rule.id == "CGROUP-OOMKILL":
        shared = f" and {int(shm or 0) / (1 << 20):.1f} GiB in /dev/shm" if shm and int(shm) > 1 << 18 else ""
        return Words(
            cause=f"The container's own memory limit was reached (the host may have plenty); the kernel killed {name} (pid {pid}) at {int(rss) / (1 << 20):.1f} GiB{shared}."
        )
    return Words(cause=f"The host's RAM ran out; the kernel killed {name} (pid {pid}), which held {total:.1f} GiB.")
