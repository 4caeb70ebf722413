"""The words and ways out for PyTorch's out-of-memory message, by cause, engine and stage."""

from __future__ import annotations

from dsctl.doctor import solver
from dsctl.doctor.memorycase import Known
from dsctl.doctor.model import Case, Option, Words
from dsctl.doctor.oom import Oom
from dsctl.doctor.serving import number
from dsctl.doctor.solver import GIB, gib

STAGES = {
    "load": "while loading the weights", "profile": "in the trial run that measures activations", "cache": "while placing the KV cache",
    "capture": "while capturing CUDA graphs", "sampler": "while warming up the sampler", "logprobs": "while computing prompt log-probabilities",
    "run": "while serving a step", "train": "in a training step", "": "(the log does not show at which stage)",
}  # fmt: skip


def _numbers(oom: Oom) -> str:
    parts = [
        f"GPU {oom.gpu}: {gib(oom.requested / GIB)} asked for, {gib(oom.free / GIB)} free of {gib(oom.total / GIB)}"
    ]
    if oom.allocated is not None:
        parts.append(f"{gib(oom.allocated / GIB)} in use by PyTorch")
    if oom.unallocated:
        parts.append(f"{gib(oom.unallocated / GIB)} reserved but unallocated")
    return ", ".join(parts)


def unread(facts: Known) -> Words:
    """A message whose numbers are not there: the direction at least, per engine."""
    fix = {
        "vllm": "Lower --gpu-memory-utilization by 0.05 (if it happens while serving) or --max-num-batched-tokens; look with nvidia-smi whether another process holds the card.",
        "sglang": "LOWER --mem-fraction-static by 0.05 (if it happens while serving), then --chunked-prefill-size; look with nvidia-smi whether another process holds the card.",
    }.get(facts.engine, "")
    return Words(cause="The card ran out of memory; the line that carries the numbers is not in this log.", fix=fix)


def capacity(oom: Oom, stage: str, facts: Known, case: Case) -> Words:
    """The working set is too large: which knob, and how far."""
    missing = max(0.0, (oom.requested - oom.free) / GIB) + max(0.5, oom.total / GIB * 0.01)
    cause = f"{_numbers(oom)}, {STAGES[stage]}: what this process itself needs does not fit."
    gpu = str(oom.gpu)
    if stage == "load" or (stage in ("", "profile") and _never_fits(oom, facts, case)):
        return _load(oom, facts, case, cause)
    if stage == "logprobs":
        options = _step_tokens(case, facts)
        fix = "Do not allow prompt_logprobs (or echo with logprobs) on long prompts; or:\n" + solver.listing(options)
        return Words(
            rule="OOM-LOGPROBS",
            cause=cause + " The logits of every prompt token are built at once.",
            fix=fix,
            gpu=gpu,
            options=options,
        )
    if facts.engine == "sglang":
        return _sglang(missing, stage, facts, case, (cause, gpu), oom.total / GIB)
    if facts.engine == "vllm":
        return _vllm(missing, stage, facts, case, (cause, gpu), oom.total / GIB)
    if facts.engine == "dsctl":
        options = solver.rank(
            (solver.less_share("engine.kv_cache_ratio", number(case.settings, "kv_ratio"), missing, oom.total / GIB),)
        )
        return Words(
            cause=cause,
            fix=solver.listing(options) + "\nThen engine.max_num_batched_tokens to half.",
            gpu=gpu,
            options=options,
        )
    return _plain(oom, missing, stage, cause)


def _smaller(facts: Known) -> str:
    """The checkpoint that needs less, by what this one is."""
    width = facts.model.width if facts.model else 2.0
    if width < 0.8:
        return "a smaller model: this checkpoint has 4 bits a weight already"
    if width < 1.5:
        return "a 4-bit checkpoint (AWQ/GPTQ): it halves these 8-bit weights"
    return "a quantised checkpoint (FP8 halves, AWQ/GPTQ 4-bit quarters the weights)"


def _never_fits(oom: Oom, facts: Known, case: Case) -> bool:
    """True when the weights alone are more than the card, so that no setting of the cache can help."""
    told = "tp" in case.settings or "dp" in case.settings or oom.gpu == 0
    if facts.model is None or not told:
        return False
    cards = 1
    for name in ("tp", "pp", "dp"):  # with data parallel the experts may be spread too: in doubt it fits
        cards *= max(1, int(number(case.settings, name) or 1))
    return facts.model.weights / cards / GIB > oom.total / GIB * 0.97


def _plain(oom: Oom, missing: float, stage: str, cause: str) -> Words:
    """No serving engine in sight: training, a notebook, a Flask server."""
    used = (oom.allocated or oom.total) / GIB
    share = max(0.1, solver.floor_to(1 - missing / max(used, 0.1), 0.05))
    if stage == "train":
        fix = f"Lower the batch per card to about {share:.0%} of its size (more gradient-accumulation steps keep the total), switch on gradient checkpointing, or shard optimiser and weights (FSDP/ZeRO-3)."
        return Words(rule="OOM-TRAIN", cause=cause, fix=fix, gpu=str(oom.gpu))
    fix = (
        f"About {gib(missing)} are missing: let fewer or shorter requests run at once (about {share:.0%} of the batch, or a cap on prompt + output tokens), "
        "run under torch.inference_mode(), free what earlier requests left (del, no references to outputs), or use a quantised or sharded model. "
        "A server without a bounded queue falls over again at the next peak."
    )  # fmt: skip
    return Words(cause=cause, fix=fix, gpu=str(oom.gpu))


def _load(oom: Oom, facts: Known, case: Case, cause: str) -> Words:
    tp = int(number(case.settings, "tp") or 1)
    share = 0.88 if facts.engine == "sglang" else facts.util or 0.9
    flag = "--tp" if facts.engine == "sglang" else "--tensor-parallel-size"
    option = solver.wider(
        case.settings, facts.model, oom.total / GIB, share, int(number(case.settings, "max_len") or 4096)
    )
    cause = cause.replace("what this process itself needs does not fit", "the weights do not fit on the card")
    if facts.model:
        cause += f" By {facts.shape_from} the weights are {gib(facts.model.weights / GIB)}, {gib(facts.model.weights / tp / GIB)} a card at tensor parallel {tp}."
    if option:
        if flag == "--tp" and option.param == "--tensor-parallel-size":
            option = Option(flag, option.current, option.suggested, option.margin_bytes, option.note)
        return Words(
            rule="OOM-LOAD",
            cause=cause,
            fix=solver.listing((option,)) + f"\nOr {_smaller(facts)}.",
            gpu=str(oom.gpu),
            options=(option,),
        )
    fix = f"Spread the weights over more cards ({flag} {tp * 2} or more), or take {_smaller(facts)}. Flags about the cache or the length do not help: it fails before."
    if facts.engine in ("", "transformers"):
        fix = "Spread the weights (device_map='auto' over several cards, or tensor parallel in a serving engine), load in 16 bit (torch_dtype='auto') instead of 32, or take a quantised checkpoint."
    return Words(rule="OOM-LOAD", cause=cause, fix=fix, gpu=str(oom.gpu))


def _step_tokens(case: Case, facts: Known) -> tuple[Option, ...]:
    """Half the tokens of a step."""
    param = "--chunked-prefill-size" if facts.engine == "sglang" else "--max-num-batched-tokens"
    now = number(case.settings, "step_tokens")
    if now and now >= 1024:
        return (Option(param, f"{now:g}", f"{int(now // 2)}", None, "halves the activations of a step"),)
    if now:
        return ()
    return (
        Option(
            param,
            "",
            "4096" if facts.engine == "sglang" else "2048",
            None,
            "if it is higher now; a step's activations follow it",
        ),
    )


def _least(facts: Known, total: float) -> float | None:
    return (facts.weights + 1.0) / total if facts.weights else None


def _sglang(missing: float, stage: str, facts: Known, case: Case, said: tuple[str, str], total: float) -> Words:
    """SGLang: the pool is placed first, so running out later means the pool is too LARGE."""
    cause, gpu = said
    now = number(case.settings, "mem_fraction")
    share = solver.less_share("--mem-fraction-static", now, missing, total, least=_least(facts, total))
    running = number(case.settings, "max_seqs")
    graphs = number(case.settings, "graph_bs")
    options: list[Option | None] = [share]
    rule = "OOM-SGL-RUN"
    if stage == "capture":
        rule = "OOM-CAPTURE"
        options.append(
            Option(
                "--cuda-graph-max-bs",
                f"{graphs:g}" if graphs else "",
                str(max(8, int(graphs // 2)) if graphs else 32),
                None,
                "fewer graphs",
            )
        )
    else:
        options += _step_tokens(case, facts)
        if running and running > 16:
            options.append(
                Option(
                    "--max-running-requests", f"{running:g}", str(int(running // 2)), None, "halves the decode batch"
                )
            )
        elif not running:
            options.append(Option("--max-running-requests", "", "128", None, "if more run at once now"))
    ranked = solver.rank(options)
    lead = (
        "" if share else f"Lowering --mem-fraction-static is infeasible (the weights need {gib(facts.weights or 0)}).\n"
    )
    return Words(
        rule=rule,
        cause=cause + " SGLang's static pool leaves too little beside it.",
        fix=lead + "LOWER (the start-up message that says 'increase' is another case):\n" + solver.listing(ranked),
        gpu=gpu,
        options=ranked,
    )


def _vllm(missing: float, stage: str, facts: Known, case: Case, said: tuple[str, str], total: float) -> Words:
    """vLLM: the trial run needs smaller steps; everything after it needs a smaller cache."""
    cause, gpu = said
    seqs = number(case.settings, "max_seqs")
    fewer = Option(
        "--max-num-seqs",
        f"{seqs:g}" if seqs else "",
        str(max(8, int(seqs // 2)) if seqs else 128),
        None,
        "fewer sequences a step",
    )
    share = solver.less_share("--gpu-memory-utilization", facts.util, missing, total, least=_least(facts, total))
    if stage == "profile":
        ranked = (*_step_tokens(case, facts), fewer)
        wider = solver.wider(
            case.settings, facts.model, total, facts.util or 0.9, int(number(case.settings, "max_len") or 4096)
        )
        ranked = solver.rank((*ranked, wider))
        return Words(cause=cause + " Weights plus the activations of the largest step are more than the card: the cache is not placed yet, so --gpu-memory-utilization changes nothing here.",
                     fix="Make the largest step smaller, or use more cards:\n" + solver.listing(ranked), gpu=gpu, options=ranked)  # fmt: skip
    if stage == "capture":
        ranked = solver.rank(
            (
                share,
                fewer,
                Option("--enforce-eager", "", "(set)", None, "no graphs at all: saves their memory, slower decode"),
            )
        )
        return Words(
            rule="OOM-CAPTURE",
            cause=cause + " The cache was placed before; the graphs find no room.",
            fix=solver.listing(ranked),
            gpu=gpu,
            options=ranked,
        )
    ranked = solver.rank((share, *_step_tokens(case, facts), fewer))
    lead = "" if share else f"A smaller cache is infeasible (the weights need {gib(facts.weights or 0)}); "
    return Words(
        cause=cause
        + " vLLM's cache takes the share given by gpu_memory_utilization; what a step needs beyond the measured peak finds no room.",
        fix=lead + "Leave more room beside the cache, best first:\n" + solver.listing(ranked),
        gpu=gpu,
        options=ranked,
    )


def other(rule: str, oom: Oom, stage: str, facts: Known, case: Case) -> Words:
    """The causes that no smaller batch would cure."""
    head, gpu, total = _numbers(oom), str(oom.gpu), oom.total / GIB
    if rule == "OOM-FRAG":
        return _fragmented(oom, facts, case)
    if rule == "OOM-OTHER-PROC":
        return _neighbour(oom, facts, case)
    if rule == "OOM-GRAPH-POOLS":
        return _graphs(oom, facts, case)
    if rule == "OOM-IMPOSSIBLE":
        side = int((oom.requested / 2) ** 0.5)
        return Words(rule=rule, cause=f"{head}: one tensor of {gib(oom.requested / GIB)} ({oom.requested // 2:,} 16-bit elements) is larger than the whole card.",
                     fix=f"No memory flag helps. Look at the frame that allocates: a score matrix over {side:,} x {side:,} positions (attention without a fused kernel, a missing mask slice), a wrong shape, or corrupt input lengths. Use fused attention (SDPA/FlashAttention) or cap the sequence length.",
                     gpu=gpu)  # fmt: skip
    if rule == "OOM-FRACTION-LIMIT":
        return Words(rule=rule, cause=f"{head}: this process may use only {gib((oom.allowed or 0) / GIB)} (a per-process limit), though {gib(oom.free / GIB)} are free.",
                     fix=f"Raise or remove torch.cuda.set_per_process_memory_fraction (now about {(oom.allowed or 0) / oom.total:.2f}).", gpu=gpu)  # fmt: skip
    return Words(
        rule=rule,
        cause=f"{head}: more is allocated than the card's {gib(total)}; the driver moves pages to host memory {STAGES[stage]}.",
        gpu=gpu,
    )


def _fragmented(oom: Oom, facts: Known, case: Case) -> Words:
    fix = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the server's environment (from torch 2.9 on the name is PYTORCH_ALLOC_CONF; setting both to the same value is safe), then restart."
    if case.settings.get("sleep_mode", "").lower() in ("true", "1"):
        fix = "Sleep mode / memory saver is on and does not work with expandable_segments: switch it off, or set PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512 instead, then restart."
    flag = {"sglang": "--mem-fraction-static", "vllm": "--gpu-memory-utilization"}.get(facts.engine)
    if flag:
        fix += f" If it remains: lower {flag} by 0.03."
    cause = f"{_numbers(oom)}: what PyTorch holds unallocated would be enough, but in pieces too small (fragmentation)."
    option = Option("PYTORCH_CUDA_ALLOC_CONF", "", "expandable_segments:True", max(0, oom.unallocated - oom.requested))
    return Words(
        rule="OOM-FRAG", cause=cause, fix=fix, gpu=str(oom.gpu), options=(option,) if "switch it off" not in fix else ()
    )


def _neighbour(oom: Oom, facts: Known, case: Case) -> Words:
    total, others = oom.total / GIB, oom.others / GIB
    pids = ", ".join(f"pid {pid}: {gib(held / GIB)}" for pid, held in oom.holders)
    cause = f"{_numbers(oom)}: {gib(others)} are held by other processes{f' ({pids})' if pids else ''}, {gib((oom.own or 0) / GIB)} by this one."
    fix = "1. Find and stop them: `nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv` (an old server, a notebook, another job), or choose a free card with CUDA_VISIBLE_DEVICES."
    room = solver.floor_to((total - others) / total - 0.03, 0.01)
    flag = {"sglang": "--mem-fraction-static", "vllm": "--gpu-memory-utilization"}.get(facts.engine)
    now = facts.util if facts.engine == "vllm" else number(case.settings, "mem_fraction")
    options: tuple[Option, ...] = ()
    if (
        flag
        and room >= 0.2
        and (now is None or room < now)
        and room * total > max((facts.weights or 0.0) + 2, ((oom.own or 0) + oom.requested) / GIB * 1.1)
    ):
        options = (
            Option(
                flag,
                f"{now:g}" if now else "",
                f"{room:g}",
                int((total - others - room * total) * GIB),
                "if the neighbour must stay",
            ),
        )
        fix += "\n" + solver.sentence(options[0], 2)
    elif flag:
        need = f"the weights ({gib(facts.weights)}) and a cache" if facts.weights else "what this process needs"
        fix += f"\nRunning beside it is infeasible: {gib(total - others)} do not hold {need}."
    return Words(rule="OOM-OTHER-PROC", cause=cause, fix=fix, gpu=str(oom.gpu), options=options)


def _graphs(oom: Oom, facts: Known, case: Case) -> Words:
    cause = f"{_numbers(oom)}: {gib(oom.private / GIB)} of that are private pools of captured CUDA graphs."
    freed = oom.private
    if facts.engine == "sglang":
        options: tuple[Option, ...] = (
            Option("--cuda-graph-max-bs", case.settings.get("graph_bs", ""), "32", None, "fewer graphs"),
            Option("--disable-cuda-graph", "", "(set)", freed, "no graphs: slower decode"),
        )
    elif facts.engine == "vllm":
        options = (
            Option(
                "--compilation-config",
                "",
                "'{\"cudagraph_capture_sizes\": [1, 2, 4, 8, 16, 32]}'",
                None,
                "fewer graphs",
            ),
            Option("--enforce-eager", "", "(set)", freed, "no graphs: slower decode"),
        )
    else:
        options = (
            Option("torch.compile mode / captured shapes", "", "mode='default' (no graphs), or fewer shapes", freed),
        )
    return Words(rule="OOM-GRAPH-POOLS", cause=cause, fix=solver.listing(options), gpu=str(oom.gpu), options=options)
