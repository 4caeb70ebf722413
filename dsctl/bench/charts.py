"""Charts as inline SVG: lines, steps and dots on linear or logarithmic axes, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Point = tuple[float, float]
WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44


@dataclass(frozen=True, slots=True)
class Series:
    """Points drawn one way; `colour` is 1 to 5, and each colour has a dash pattern of its own as well."""

    name: str
    points: Sequence[Point]
    kind: Literal["line", "dots", "crosses"] = "line"
    colour: int = 1
    labels: Sequence[str] = ()  # one a point, written beside it


@dataclass(frozen=True, slots=True)
class Mark:
    """A limit, drawn across the chart at a value of one axis."""

    axis: Literal["x", "y"]
    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn, and what it says to those who cannot see it (`description`)."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_from_zero: bool = True
    x_range: Point | None = None
    marks: Sequence[Mark] = ()
    shades: Sequence[Point] = ()  # spans of x that are not measured


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to places on one axis."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, in the drawing's units, held within the axis."""
        if self.is_log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values across the axis."""
        return log_ticks(self.low, self.high) if self.is_log else ticks(self.low, self.high)


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 × a power of ten between two values."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two values: powers of ten over many decades, more between them over fewer."""
    ratio = high / low
    if ratio < 4:
        return ticks(low, high)
    factors = (1,) if ratio > 1000 else (1, 2, 5) if ratio > 30 else (1, 1.5, 2, 3, 5, 7)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high * 1.0001]


def draw(chart: Chart) -> str:
    """The chart as one <svg>, with a title and a description for screen readers; it needs a point at least."""
    everything = [point for series in chart.series for point in series.points]
    x, y = _scales(chart, everything)
    name = _name(chart.title)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{escape(chart.title)}</title><desc id="{name}-d">{escape(chart.description)}</desc>',
        *(_shade(span, x) for span in chart.shades),
        *_axes(chart, x, y),
        *(_series(series, x, y) for series in chart.series),
        *(_mark(mark, x, y) for mark in chart.marks),
        "</svg>",
    ]
    return "".join(parts)


def legend(chart: Chart) -> list[tuple[str, str]]:
    """(name, its sample as SVG) of each series; nothing for a single one. The dots of a line have no own name."""
    named = [series for series in chart.series if series.name]
    return [(series.name, _sample(series)) for series in named] if len(named) > 1 else []


def _sample(series: Series) -> str:
    if series.kind == "line":
        return f'<path class="line k{series.colour}" d="M1 5H25"/>'
    if series.kind == "dots":
        return f'<path class="dots k{series.colour}" d="M13 5h0"/>'
    return f'<path class="cross k{series.colour}" d="M10 2L16 8M16 2L10 8"/>'


def _name(title: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in title.lower())


def _scales(chart: Chart, points: Sequence[Point]) -> tuple[Scale, Scale]:
    xs = [x for x, _ in points] + [mark.value for mark in chart.marks if mark.axis == "x"]
    ys = [y for _, y in points] + [mark.value for mark in chart.marks if mark.axis == "y"]
    x_low, x_high = chart.x_range or (min(xs), max(xs))
    if chart.x_log:
        x_low = max(x_low, max(xs) / 1e4, 1e-9)  # what lies further below stands at the edge
    y_low = 0.0 if chart.y_from_zero and min(ys) >= 0 else min(ys)
    y_high = max(ys)
    y_high += (y_high - y_low) * (0.16 if any(series.labels for series in chart.series) else 0.06)
    x = Scale(*_apart(x_low, x_high), LEFT, WIDTH - RIGHT, chart.x_log)
    return x, Scale(*_apart(y_low, y_high), HEIGHT - BOTTOM, TOP)


def _apart(low: float, high: float) -> Point:
    """An axis has a length, even where all values are one."""
    if high > low:
        return low, high
    return (low * 0.9, low * 1.1) if low > 0 else (low - 1, low + 1)


def _axes(chart: Chart, x: Scale, y: Scale) -> list[str]:
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    parts: list[str] = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_show(value)}</text>')
    for value in x.ticks():
        at = x.place(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_show(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{centre}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    turned = f'transform="rotate(-90 14 {middle})"'
    parts.append(
        f'<text class="label" x="14" y="{middle}" text-anchor="middle" {turned}>{escape(chart.y_label)}</text>'
    )
    return parts


def _series(series: Series, x: Scale, y: Scale) -> str:
    places = [(x.place(px), y.place(py)) for px, py in series.points]
    if series.kind == "line":
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        drawn = f'<path class="line k{series.colour}" d="{path}"/>'
    elif series.kind == "dots":
        path = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in places)
        drawn = f'<path class="dots k{series.colour}" d="{path}"/>'
    else:
        path = "".join(f"M{px - 3:.1f} {py - 3:.1f}l6 6m0-6l-6 6" for px, py in places)
        drawn = f'<path class="cross k{series.colour}" d="{path}"/>'
    words = "".join(
        f'<text class="tick" x="{px - 6:.1f}" y="{py - 6:.1f}" text-anchor="end">{escape(label)}</text>'
        for (px, py), label in zip(places, series.labels, strict=False)
    )
    return drawn + words


def _mark(mark: Mark, x: Scale, y: Scale) -> str:
    label = escape(mark.label)
    if mark.axis == "x":
        at = x.place(mark.value)
        anchor = "end" if at > (LEFT + WIDTH) / 2 else "start"
        shift = -4 if anchor == "end" else 4
        text = (
            f'<text class="limit" x="{at + shift:.1f}" y="{HEIGHT - BOTTOM - 6}" text-anchor="{anchor}">{label}</text>'
        )
        return f'<path class="limit" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{text}'
    at = y.place(mark.value)
    text = f'<text class="limit" x="{WIDTH - RIGHT - 4}" y="{at - 4:.1f}" text-anchor="end">{label}</text>'
    return f'<path class="limit" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>{text}'


def _shade(span: Point, x: Scale) -> str:
    start, end = x.place(span[0]), x.place(span[1])
    size = f'width="{max(0.0, end - start):.1f}" height="{HEIGHT - BOTTOM - TOP}"'
    return f'<rect class="shade" x="{start:.1f}" y="{TOP}" {size}/>'


def _show(value: float) -> str:
    """A tick as short as it can be: 0, 0.5, 20, 1500, 2M."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"
