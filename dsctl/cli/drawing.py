"""A diagnosis on a terminal: the same text in colours, and a bar while large logs are read."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

STYLES = (
    (re.compile(r"^\d+\. (CRITICAL)\b"), "bold red"),
    (re.compile(r"^\d+\. (WARNING)\b"), "bold yellow"),
    (re.compile(r"^\d+\. (INFO)\b"), "bold cyan"),
    (re.compile(r"^\d+\. (?:CRITICAL|WARNING|INFO)(.*?)  \["), "bold"),
    (re.compile(r"(\[[A-Z][A-Z0-9-]+\](?: · \d+×)?)"), "dim"),
    (re.compile(r"^   (why:|fix:|check:)"), "bold"),
    (re.compile(r"^ +(└ led to:)"), "magenta"),
    (re.compile(r"^   (\S+:\d+: .*)$"), "dim"),
    (re.compile(r"^  (\d+ rules? (?:not checked|not applicable|for \d+ more).*)$"), "dim"),
    (re.compile(r"^(  no answer from .*)$"), "yellow"),
)


def is_wanted() -> bool:
    """True when stdout shows colours: a terminal that is not dumb, or FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (
        sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
    )


def width() -> int:
    """Columns to write sentences in: the terminal's, not more than are easily read."""
    return min(120, shutil.get_terminal_size((120, 24)).columns)


def draw(report: str) -> None:
    """The report in colours; what a terminal would obey instead of show is replaced."""
    from rich.console import Console
    from rich.text import Text

    from dsctl.cli import show

    console = Console(force_terminal=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in report.splitlines():
        text = Text(show.without_controls(line))
        for pattern, style in STYLES:
            for found in pattern.finditer(text.plain):
                text.stylize(style, *found.span(1))
        console.print(text)


@contextmanager
def reading(size: int | None) -> Generator[Callable[[int], None], None, None]:
    """A bar on stderr; what it gives is told the bytes that were read. `size` None: it only counts."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("reading logs"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda count: bar.advance(task, count)
