"""The table of a run as Markdown: every engine beside the limit that the probes of its own run allow."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engine_peers.results import Http, Measured, Report, Spread
from benchmarks.engine_peers.shape import (
    BATCHES,
    CONFIG,
    PREFILLS,
    Limit,
    Rates,
    arithmetic_of,
    limit,
    shape_of,
    step_bytes,
)

SHAPE = shape_of(CONFIG)
RATIOS = {"dsctl-int8": "llama-q8_0", "dsctl-int4": "llama-q4_0", "dsctl-bf16": "vllm"}


def mean_distinct(report: Report, rows: int) -> float:
    """Distinct experts of a layer and step: as counted, else as chance gives."""
    layers = report.distinct.get(rows)
    return sum(layers) / len(layers) if layers else SHAPE.expected_distinct(rows)


def limit_of(report: Report, engine: Measured, rows: int, *, prompts: int | None = None) -> Limit:
    """The limit of a step with `rows` tokens under this engine's own probe.

    `prompts`: the tokens are that many whole prompts, which visit every expert and ask for one row of logits each.
    """
    probe = engine.probe
    operations = probe.bf16 if arithmetic_of(engine.weights) == "bf16" else probe.int8
    visited = mean_distinct(report, rows) if prompts is None else SHAPE.experts
    return limit(SHAPE, engine.weights, Rates(probe.read, operations), rows, visited, prompts)


def disturbed(report: Report) -> list[str]:
    """What makes figures of this report doubtful."""
    return [
        f"DISTURBED {engine.name}: other processes took {engine.others:.0%} of the processors; measure again"
        for engine in report.engines
        if engine.is_disturbed
    ]


def decode_table(report: Report) -> list[str]:
    """Decode: tokens per second, bytes per second, share of the limit."""
    lines = ["| engine | weights | read probe | " + " | ".join(f"bs {rows}" for rows in BATCHES) + " |"]
    lines.append("|---|---|---|" + "---|" * len(BATCHES))
    for engine in report.engines:
        cells = [_decode_cell(report, engine, rows) for rows in BATCHES]
        lines.append(f"| {engine.name} | {engine.weights} | {_gb(engine.probe.read)} | {' | '.join(cells)} |")
    return lines


def _decode_cell(report: Report, engine: Measured, rows: int) -> str:
    spread = engine.decode.get(rows)
    if spread is None:
        return "–"
    read = step_bytes(SHAPE, engine.weights, mean_distinct(report, rows)) * spread.median / rows
    most = limit_of(report, engine, rows)
    return f"**{_rate(spread)}** {read / 1e9:.0f} GB/s, {spread.median / most.overlapped:.0%} of {most.overlapped:.0f}"


def prefill_table(report: Report) -> list[str]:
    """Prefill: tokens per second and share of the limit; the step visits every expert."""
    names = [f"{prompts}×{length}" for prompts, length in PREFILLS]
    lines = ["| engine | int8 / bf16 probe | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for engine in report.engines:
        cells: list[str] = []
        for (prompts, length), name in zip(PREFILLS, names, strict=True):
            spread = engine.prefill.get(name)
            most = limit_of(report, engine, prompts * length, prompts=prompts).overlapped
            cells.append(f"**{_rate(spread)}** {spread.median / most:.0%} of {most:.0f}" if spread else "–")
        probe = engine.probe
        lines.append(f"| {engine.name} | {probe.int8 / 1e12:.2f} / {probe.bf16 / 1e12:.2f} T/s | {' | '.join(cells)} |")
    return lines


def http_table(report: Report) -> list[str]:
    """Over HTTP: tokens per second, latencies, memory, start."""
    lines = ["| engine | clients | tok/s | TTFT p50 / p99 ms | ITL p50 / p99 ms | load s | PSS GiB | failed |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for engine in report.engines:
        lines += [_http_line(engine, http) for http in engine.http]
    return lines


def _http_line(engine: Measured, http: Http) -> str:
    latencies = f"{http.ttft_p50_ms:.0f} / {http.ttft_p99_ms:.0f} | {http.itl_p50_ms:.1f} / {http.itl_p99_ms:.1f}"
    size = "–" if engine.pss is None else f"{engine.pss / 2**30:.2f}"
    start = "–" if engine.load_s is None else f"{engine.load_s:.1f}"
    rate = f"**{_rate(http.tokens_per_s)}**"
    return f"| {engine.name} | {http.clients} | {rate} | {latencies} | {start} | {size} | {http.failed} |"


def ratios(report: Report) -> list[str]:
    """Ours over its peer, only where one run measured both."""
    lines: list[str] = []
    for engine in report.engines:
        peers = [p for p in report.engines if p.name == RATIOS.get(engine.name) and p.run == engine.run]
        for peer in peers:
            parts = [f"bs {rows} {_ratio(engine.decode.get(rows), peer.decode.get(rows))}" for rows in BATCHES]
            parts += [
                f"prefill {name} {_ratio(engine.prefill.get(name), peer.prefill.get(name))}" for name in engine.prefill
            ]
            theirs = {http.clients: http.tokens_per_s for http in peer.http}
            parts += [
                f"HTTP {http.clients} {_ratio(http.tokens_per_s, theirs.get(http.clients))}" for http in engine.http
            ]
            doubt = " (DISTURBED)" if engine.is_disturbed or peer.is_disturbed else ""
            lines.append(f"{engine.name} / {peer.name}, same run{doubt}: " + ", ".join(parts))
    return lines


def distinct_lines(report: Report) -> list[str]:
    """Distinct experts of every MoE layer."""
    lines: list[str] = []
    for rows, layers in sorted(report.distinct.items()):
        per_layer = " ".join(f"{value:.1f}" for value in layers)
        mean = f"{mean_distinct(report, rows):.2f} of {SHAPE.experts}"
        lines.append(f"distinct experts, bs {rows}: mean {mean}; by layer {per_layer}")
    return lines


def render(report: Report) -> str:
    """Everything, as Markdown."""
    about = [f"{name}: {value}" for name, value in report.machine.items()]
    tables = [decode_table(report), prefill_table(report), http_table(report)]
    notes = [f"{engine.name}: {note}" for engine in report.engines for note in engine.notes]
    blocks = [about, disturbed(report), distinct_lines(report), *tables, ratios(report), notes]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _rate(spread: Spread) -> str:
    low, high = min(spread.samples), max(spread.samples)
    return f"{spread.median:.0f}" if len(spread.samples) == 1 else f"{spread.median:.0f} ({low:.0f}–{high:.0f})"


def _ratio(ours: Spread | None, theirs: Spread | None) -> str:
    return f"{ours.median / theirs.median:.2f}×" if ours and theirs and theirs.median else "–"


def _gb(rate: float) -> str:
    return f"{rate / 1e9:.0f} GB/s"


def failures(engines: Sequence[Measured]) -> int:
    """Requests that failed in all loads."""
    return sum(http.failed for engine in engines for http in engine.http)
