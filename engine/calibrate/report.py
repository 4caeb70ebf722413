"""What quantising brought, for people: a table, one JSON object, and a page with plots that needs nothing else."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.calibrate.measure import Difference
from engine.calibrate.sensitivity import Trial, label
from engine.spec.policy import KINDS, Policy

MIB: Final = 1 << 20
_COLOURS: Final = {"none": "#9aa5b1", "int8": "#3b7dd8", "int4": "#e07b39"}
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2933}}
table{{border-collapse:collapse;margin:1rem 0}}
td,th{{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #dde3ea}}
td:first-child,th:first-child{{text-align:left}}text{{font:11px system-ui,sans-serif;fill:#1f2933}}</style>
<h1>{title}</h1>{body}</html>
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One run of quantising a model."""

    model: str
    policy: Policy
    difference: Difference
    bytes_before: int  # weights unquantised, as the engine holds them
    bytes_after: int
    file_bytes: int  # of the checkpoint written
    formats: dict[str, int]  # bytes by number format
    trials: Sequence[Trial]
    frontier: Sequence[tuple[int, float]]  # bytes and predicted KL of the best policies at other limits
    kernels: str

    def document(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            "model": self.model,
            "policy": self.policy.document(),
            "difference": self.difference.document(),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "file_bytes": self.file_bytes,
            "formats": self.formats,
            "kernels": self.kernels,
            "frontier": [{"bytes": size, "kl": kl} for size, kl in self.frontier],
            "sensitivity": [
                {"unit": label(t.unit), "format": t.wanted, "bytes": t.nbytes, "kl": t.kl, "top1": t.top1}
                for t in self.trials
            ],
        }

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of the table."""
        d = self.difference
        share = self.bytes_after / self.bytes_before
        formats = ", ".join(f"{name} {size / MIB:.1f}" for name, size in self.formats.items())
        return [
            (
                "weights in memory",
                f"{self.bytes_after / MIB:.1f} MiB, {share:.1%} of {self.bytes_before / MIB:.1f} MiB",
            ),
            ("  by number format", f"{formats} MiB"),
            ("checkpoint on disk", f"{self.file_bytes / MIB:.1f} MiB"),
            ("tokens compared", str(d.tokens)),
            ("mean KL", f"{d.kl:.2e} ± {d.kl_error:.1e} nats"),
            ("99 % KL", f"{d.kl_99:.2e} nats"),
            ("top-1 agreement", f"{d.top1:.3%}; {d.top1_clear:.3%} where the choice is clear (> 0.1 nat)"),
            ("perplexity ratio", f"{1 / d.ratio:.5f} ± {d.ratio_error:.5f} ({math.exp(d.loss):.2f} before)"),
            ("measured with", self.kernels),
        ]

    def policy_rows(self) -> list[tuple[str, str]]:
        """Formats by class with their exceptions."""
        found: list[tuple[str, str]] = []
        for kind in KINDS:
            other = [f"layer {at}: {wanted}" for at, named, wanted in self.policy.exceptions if named == kind]
            found.append((kind, "; ".join([getattr(self.policy, kind), *other])))
        return found

    def table(self) -> str:
        """For a terminal."""
        rows = [*self.policy_rows(), *self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}s}  {value}" for name, value in rows)

    def page(self) -> str:
        """For a browser: self-contained."""
        body = _table("Result", self.rows()) + _table("Policy (number format of each class)", self.policy_rows())
        if self.frontier:
            body += (
                "<h2>Bytes against loss</h2><p>Best policies by the sum of single losses; the ring is what was chosen,"
            )
            body += f" as measured.</p>{_frontier(self)}"
        if self.trials:
            body += f"<h2>Loss of each class and layer by itself</h2>{_bars(self.trials)}"
        data = json.dumps(self.document()).replace("<", "\\u003c")
        body += f'<script type="application/json" id="report">{data}</script>'
        return _PAGE.format(title=html.escape(f"Quantising {self.model}"), body=body)


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>{html.escape(title)}</h2><table>{cells}</table>"


def _log(value: float, low: float, high: float, size: float) -> float:
    """Where a value lies on a logarithmic axis of `size`."""
    value = min(max(value, low), high)
    return size * math.log(value / low) / math.log(high / low) if high > low else 0.0


def _range(values: Sequence[float]) -> tuple[float, float]:
    positive = [value for value in values if value > 0] or [1e-6]
    return 10 ** math.floor(math.log10(min(positive))), 10 ** math.ceil(math.log10(max(positive) * 1.0001))


def _bars(trials: Sequence[Trial]) -> str:
    """One horizontal bar a trial, KL on a logarithmic axis."""
    low, high = _range([trial.kl for trial in trials])
    parts: list[str] = []
    for row, trial in enumerate(trials):
        y, width = 20 + row * 16, max(1.0, _log(trial.kl, low, high, 560))
        name = html.escape(f"{label(trial.unit)} {trial.wanted}")
        colour = _COLOURS[trial.wanted]
        parts += [
            f'<text x="0" y="{y + 10}">{name}</text>',
            f'<rect x="140" y="{y}" width="{width:.1f}" height="12" fill="{colour}"/>',
            f'<text x="{146 + width:.1f}" y="{y + 10}">{trial.kl:.1e}</text>',
        ]
    height = 30 + 16 * len(trials)
    axis = f'<text x="140" y="12">mean KL in nats, {low:.0e} … {high:.0e}, logarithmic</text>'
    return f'<svg viewBox="0 0 800 {height}" role="img">{axis}{"".join(parts)}</svg>'


def _frontier(report: Report) -> str:
    """Predicted KL over bytes, with the measured point of the policy."""
    points = sorted(report.frontier)
    chosen = (report.bytes_after, report.difference.kl)
    low, high = _range([kl for _, kl in (*points, chosen)])
    least, most = min(size for size, _ in (*points, chosen)), max(size for size, _ in (*points, chosen))

    def place(size: int, kl: float) -> tuple[float, float]:
        x = 60 + 700 * (size - least) / max(1, most - least)
        return x, 260 - _log(kl, low, high, 230)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#3b7dd8"/>' for x, y in (place(*p) for p in points))
    x, y = place(*chosen)
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="#e07b39" stroke-width="2"/>'
    words = f'<text x="60" y="290">{least / MIB:.1f} MiB</text><text x="700" y="290">{most / MIB:.1f} MiB</text>'
    words += f'<text x="0" y="30">{high:.0e}</text><text x="0" y="262">{low:.0e}</text><text x="0" y="146">KL</text>'
    curve = f'<polyline points="{line}" fill="none" stroke="#3b7dd8"/>'
    return f'<svg viewBox="0 0 800 300" role="img">{words}{curve}{dots}{ring}</svg>'
