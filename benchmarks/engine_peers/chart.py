"""Draws decode rates of all engines beside their limits as one SVG that needs nothing else."""

from __future__ import annotations

from html import escape

from benchmarks.engine_peers.report import limit_of
from benchmarks.engine_peers.results import Report
from benchmarks.engine_peers.shape import BATCHES

_ROW, _LEFT, _WIDTH, _GAP = 22, 130, 560, 34
_OURS, _THEIRS, _LIMIT = "#1f6feb", "#8b949e", "#d0d7de"


def draw(report: Report) -> str:
    """One group of bars for each batch size; behind each bar the limit of that engine's weights and run."""
    parts: list[str] = []
    y = 30
    for rows in BATCHES:
        measured = [(engine, engine.decode[rows].median) for engine in report.engines if rows in engine.decode]
        if not measured:
            continue
        longest = max(limit_of(report, engine, rows).overlapped for engine, _ in measured)
        parts.append(f'<text x="10" y="{y}" font-weight="bold">decode, batch {rows}, tokens per second</text>')
        y += 10
        for engine, speed in measured:
            most = limit_of(report, engine, rows).overlapped
            colour = _OURS if engine.name.startswith("dsctl") else _THEIRS
            parts.append(_bar(y, most / longest, _LIMIT) + _bar(y, speed / longest, colour))
            parts.append(f'<text x="10" y="{y + 14}">{escape(engine.name)}</text>')
            label = f"{speed:.0f} ({speed / most:.0%} of {most:.0f})"
            parts.append(f'<text x="{_LEFT + _WIDTH + 8}" y="{y + 14}">{label}</text>')
            y += _ROW
        y += _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 190}" height="{y}"'
    style = 'font-family="sans-serif" font-size="12" fill="#24292f"'
    ground = f'<rect width="100%" height="{y}" fill="white"/>'
    return f"{head} {style}>{ground}{''.join(parts)}</svg>\n"


def _bar(y: int, share: float, colour: str) -> str:
    return f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, share * _WIDTH):.1f}" height="{_ROW - 6}" fill="{colour}"/>'
