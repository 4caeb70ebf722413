"""From an out-of-memory case to settings that fit: each way out with its predicted margin, never one that cannot fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from dsctl.doctor.model import Option
from dsctl.doctor.serving import number
from dsctl.doctor.shapes import Memory

GIB = float(1 << 30)
BLOCK = 16  # tokens of a cache block
MOST_UTIL = 0.95
NODE = 8  # cards of a usual host
MOST_CARDS = 64  # more than that is another deployment, not a setting
SHORTEST = 512  # tokens; a server with less context is of no use


@dataclass(frozen=True, slots=True)
class Budget:
    """What is known about one card. GiB; None where nothing tells it."""

    total: float | None = None
    util: float | None = None
    weights: float | None = None
    peak: float | None = None  # activations of the largest step and what is outside PyTorch


def gib(value: float) -> str:
    """`3.20 GiB`."""
    return f"{value:.2f} GiB"


def floor_to(value: float, step: float) -> float:
    """`value` rounded down to a multiple of `step`, without binary noise."""
    return round(floor(value / step + 1e-9) * step, 6)


def ceil_to(value: float, step: float) -> float:
    """`value` rounded up to a multiple of `step`, without binary noise."""
    return round(ceil(value / step - 1e-9) * step, 6)


def shorter(need: float, avail: float, max_len: int, estimate: int | None = None) -> Option | None:
    """The longest max_model_len whose cache fits in `avail` GiB, when `max_len` needs `need` GiB; 2 % stay free."""
    if need <= 0 or avail <= 0:
        return None
    per_token = need / max_len
    fits = int(avail / per_token * 0.98) // BLOCK * BLOCK
    if estimate:
        fits = min(fits, estimate // BLOCK * BLOCK)
    if fits < SHORTEST or fits >= max_len:
        return None
    return Option("--max-model-len", str(max_len), str(fits), int((avail - fits * per_token) * GIB))


def more_util(budget: Budget, missing: float) -> Option | None:
    """gpu_memory_utilization raised so that `missing` GiB more cache fit; None where that passes 0.95 or is unknown."""
    if budget.total is None or budget.util is None:
        return None
    wanted = ceil_to(budget.util + missing * 1.02 / budget.total, 0.01)
    if wanted > MOST_UTIL or wanted <= budget.util:
        return None
    left = (wanted - budget.util) * budget.total - missing
    return Option(
        "--gpu-memory-utilization",
        f"{budget.util:g}",
        f"{wanted:g}",
        int(left * GIB),
        "only with nothing else on the card",
    )


def less_share(
    param: str, current: float | None, missing: float, total: float, *, least: float | None = None
) -> Option | None:
    """The share of the card lowered so that `missing` GiB more stay beside it; None where the weights need more than that."""
    step = max(0.02, ceil_to(missing * 1.1 / total, 0.01))
    if current is None:
        return Option(param, "the current value", f"the current value - {step:g}", int((step * total - missing) * GIB))
    wanted = floor_to(current - step, 0.01)
    if wanted <= 0.1 or (least is not None and wanted <= least):
        return None
    return Option(param, f"{current:g}", f"{wanted:g}", int(((current - wanted) * total - missing) * GIB))


def fp8_cache(need: float, avail: float, max_len: int, kv_dtype: str) -> Option | None:
    """An 8-bit cache: the same length at half the memory."""
    if kv_dtype.startswith(("fp8", "int8")):
        return None
    if need / 2 <= avail:
        return Option(
            "--kv-cache-dtype",
            kv_dtype or "auto",
            "fp8",
            int((avail - need / 2) * GIB),
            f"keeps max_model_len {max_len}; check the quality",
        )
    return None


def wider(
    settings: Mapping[str, str], memory: Memory | None, total: float | None, share: float, need_tokens: int
) -> Option | None:
    """The smallest number of cards at which weights and the cache of one sequence fit; None where it cannot be shown.

    Tensor parallel as far as heads and quantisation blocks can be divided, pipeline parallel beyond.
    """
    if memory is None or total is None:
        return None
    now, stages = int(number(settings, "tp") or 1), int(number(settings, "pp") or 1)
    most = max((n for n in (now * 2**k for k in range(7)) if n == now or memory.divides(n)), default=now)
    for times in (2, 4, 8, 16, 32):
        tp = min(now * times, most)
        pp = stages * (now * times // tp)
        free = total * share - 2.0 - on_a_card(memory, tp, pp, need_tokens)
        if free > 0 and tp * pp <= MOST_CARDS:
            return _parallel(settings, (now, tp), (stages, pp), int(free * GIB))
    return None


def on_a_card(memory: Memory, tp: int, pp: int, tokens: int) -> float:
    """GiB of weights and of the cache of `tokens` on one card; stages of a pipeline are at best 5 % uneven."""
    uneven = 1.05 if pp > 1 else 1.0
    heads = 1 if memory.is_mla else min(tp, memory.kv_heads)
    return (memory.weights / tp + memory.kv_per_token / heads * tokens) / pp * uneven / GIB


def _parallel(settings: Mapping[str, str], tp: tuple[int, int], pp: tuple[int, int], margin: int) -> Option:
    sglang = settings.get("engine") == "sglang"
    tensor, pipeline = ("--tp", "--pp-size") if sglang else ("--tensor-parallel-size", "--pipeline-parallel-size")
    cards = tp[1] * pp[1]
    note = "2 GiB kept for activations"
    if cards > NODE:
        note += f"; {cards} cards are {-(-cards // NODE)} hosts of {NODE}"
        if not sglang and pp[1] == 1:
            note += f", better as {tensor} {NODE} {pipeline} {cards // NODE} where the hosts have no fast network"
    if pp[1] == pp[0]:
        return Option(tensor, str(tp[0]), str(tp[1]), margin, note)
    if tp[1] == tp[0]:
        return Option(pipeline, str(pp[0]), str(pp[1]), margin, note)
    return Option(tensor, str(tp[0]), f"{tp[1]} {pipeline} {pp[1]}", margin, note)


def rank(options: Sequence[Option | None]) -> tuple[Option, ...]:
    """The ways out that exist, in order."""
    return tuple(option for option in options if option is not None)


def sentence(option: Option, at: int) -> str:
    """One way out as a line of the fix."""
    margin = "" if option.margin_bytes is None else f", predicted margin {gib(option.margin_bytes / GIB)}"
    note = f"; {option.note}" if option.note else ""
    now = f" (now {option.current})" if option.current else ""
    return f"{at}. {option.param} {option.suggested}{now}{margin}{note}"


def listing(options: Sequence[Option]) -> str:
    """All ways out, best first, with the honest last line."""
    lines = [sentence(option, at) for at, option in enumerate(options, 1)]
    return "\n".join([*lines, "(margins are predicted from the log's numbers, not measured)"]) if lines else ""
