"""How a load test looks while it runs (a live panel, or a line now and then) and when it is over (one screen)."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dsctl.base.units import seconds
from dsctl.cli import show

if TYPE_CHECKING:
    from pathlib import Path

    from dsctl.bench.progress import Snapshot

BARS = "▁▂▃▄▅▆▇█"
HEARTBEAT_S = 10.0
SHOWN = ("ttft_sched", "ttft", "tpot", "itl", "icl", "e2e_sched", "e2e")
PERCENTILES = ("p50", "p90", "p95", "p99")
NOT_OK = (
    "http_error", "stream_error", "cut", "empty", "malformed", "connect_error", "timeout", "unsent", "censored", "left",
)  # fmt: skip
VERDICTS = {"invalid": "31", "fail": "31", "unknown": "33", "pass": "32", "measured": "32"}


class Plain:
    """Without a terminal: a line for each change of phase and one every 10 s."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._voice = show.Terminal(is_quiet=is_quiet)
        self._spoke = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """A change of state."""
        self._voice.say(text)

    def see(self, now: Snapshot) -> None:
        """How it goes."""
        if now.phase != self._phase or time.monotonic() - self._spoke >= HEARTBEAT_S:
            self._phase, self._spoke = now.phase, time.monotonic()
            self._voice.say(line(now))


class Live:
    """On a terminal: a panel that is drawn anew every second, below the lines that were said."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Panel

        self._console = Console(stderr=True, highlight=False)
        self._panel = Panel(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._panel.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._panel.stop()

    def say(self, text: str) -> None:
        """A change of state, above the panel."""
        self._console.print(text, markup=False)

    def see(self, now: Snapshot) -> None:
        """Draw the panel."""
        from rich.text import Text

        self._panel.update(Text("\n".join(panel(now))))


def watcher(*, is_quiet: bool) -> Plain | Live:
    """The view that fits where stderr goes."""
    return Plain(is_quiet=is_quiet) if is_quiet or show.is_plain() or not sys.stderr.isatty() else Live()


def line(now: Snapshot) -> str:
    """A run at one moment in one line."""
    rest = f", {seconds(max(0.0, now.total - now.at))} to go" if now.total else ""
    return (
        f"{now.phase}{rest}: {now.ended} done, {now.inflight} in flight, {now.failed} failed; "
        f"{now.event_rate:.0f} events/s, TTFT {_ms(now.ttft)}, TPOT {_ms(now.tpot)}"
    )


def panel(now: Snapshot) -> list[str]:
    """A run at one moment in a few lines."""
    part = min(1.0, now.at / now.total) if now.total else 0.0
    bar = f"[{'#' * round(part * 30):<30}] " if now.total else ""
    left = f"  {seconds(max(0.0, now.total - now.at))} to go" if now.total else ""
    return [
        f"{bar}{now.phase}  {seconds(now.at)}{left}",
        f"target {now.target:g}   in flight {now.inflight}   done {now.ended} ({now.rate:.1f}/s)   "
        f"failed {now.failed}   events {now.event_rate:.0f}/s",
        f"TTFT {_ms(now.ttft):>9}  {spark(now.ttfts)}",
        f"TPOT {_ms(now.tpot):>9}  {spark(now.tpots)}",
    ]


def spark(values: list[float]) -> str:
    """Values as a row of bars."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = max(high - low, 0.1 * high) or 1.0  # a tenth of the value fills the height at least: noise is no mountain
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def verdict(document: dict[str, Any], folder: Path) -> None:
    """The one screen at the end: the verdict first, then the numbers and what they rest on."""
    word = str(document["verdict"])
    lines = [show.paint(word.upper() if word != "invalid" else "MEASUREMENT INVALID", VERDICTS.get(word, "0"))]
    lines += [f"  {reason}" for reason in document["reasons"]]
    if document.get("is_partial"):
        lines.append("  interrupted: the run is shorter than it was meant to be")
    if word != "invalid":
        lines += ["", *_numbers(document)]
    lines += ["", *_ground(document), *[f"note: {note}" for note in document["notes"]], f"everything: {folder}"]
    show.result("\n".join(lines))


def _numbers(document: dict[str, Any]) -> list[str]:
    metrics = document["metrics"]
    names = [name for name in SHOWN if name in metrics and (document["mode"] == "open" or "sched" not in name)]
    rows = [
        (_name(name, document), str(metrics[name]["n"]), *(_cell(metrics[name], p) for p in PERCENTILES))
        for name in names
    ]
    table = show.columns([("", "n", *PERCENTILES), *rows]).splitlines() if rows else ["no request was measured"]
    rates = document["throughput"]
    told = [f"{rates['requests_per_s']:.2f} requests/s"]
    if rates["output_tokens_per_s"] is not None:
        told.append(
            f"{rates['output_tokens_per_s']:.1f} output tokens/s, {rates['input_tokens_per_s']:.1f} input tokens/s"
        )
    else:
        told.append(f"{rates['token_events_per_s']:.1f} events/s (tokens n/a)")
    if good := document.get("goodput"):
        told.append(f"goodput {good['per_second']:.2f}/s, {good['good']} of {good['attempted']} met all limits")
    return [*table, "", "; ".join(told)]


def _ground(document: dict[str, Any]) -> list[str]:
    """What the numbers rest on: the load, the counts, the self-check."""
    counts, check, mode = document["counts"], document["self_check"], document["mode"]
    bad = ", ".join(f"{n} {name}" for name, n in counts.items() if n and name in NOT_OK)
    span = document["window"]["end"] - document["window"]["start"]
    lag = f", send lag p99 {_ms(check['send_lag_p99'])}" if mode == "open" else ""
    return [
        f"{mode} load, {seconds(span)} measured: {counts['ok']} ok"
        + (f", {bad}" if bad else "")
        + f"; {counts['warmup']} in warm-up",
        f"client: loop lag p99 {_ms(check['loop_lag_p99'])}, CPU {check['cpu']:.0%} of a core{lag}",
    ]


def _name(name: str, document: dict[str, Any]) -> str:
    return f"{name} *" if name == document.get("headline") else name


def _cell(summary: dict[str, Any], percentile: str) -> str:
    value = summary.get(percentile)
    return "n/a" if value is None else "inf" if value == "inf" else _ms(float(value))


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 10 else f"{value:.1f} s"
