"""`dsctl bench run` between the command line and the flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dsctl.base.errors import StoppedError, UsageError
from dsctl.base.exits import Exit
from dsctl.cli import show

if TYPE_CHECKING:
    from dsctl.bench.wish import Wish
    from dsctl.flows.bench import Goal
    from dsctl.flows.searching import Quest


def wish(**options: Any) -> Wish:
    """The options as they were written."""
    from dsctl.bench.wish import Wish

    workers = options.get("workers", "auto")
    if workers != "auto" and (not workers.isdigit() or int(workers) < 1):
        raise UsageError(f"--workers cannot be {workers!r}", hint="--workers 2, or auto")
    options["workers"] = None if workers == "auto" else int(workers)
    if options["endpoint"] not in ("chat", "completions"):
        raise UsageError(f"--endpoint cannot be {options['endpoint']!r}", hint="--endpoint chat, or completions")
    return Wish(**options)


@dataclass(frozen=True, slots=True)
class How:
    """On what, how often, and how it is shown."""

    mock: bool = False
    json: bool = False
    quiet: bool = False
    repeat: int = 1


def run(config: Path | None, wished: Wish, goal: Goal, out: Path | None, how: How) -> int:
    """Measure, show, and return the exit code: of repeats the worst, invalid before failed.

    Interrupted, what was measured is shown before the error is.
    """
    from dsctl.cli import bench_view
    from dsctl.flows import bench
    from dsctl.flows.project import open_project

    documents: list[dict[str, Any]] = []
    codes: list[Exit] = []
    stop = None
    for folder in bench.folders(out, how.repeat):
        with bench_view.watcher(is_quiet=how.quiet) as watcher:
            done = bench.bench(open_project(config), wished, goal, folder, watcher, mock=how.mock)
        documents.append({"folder": str(done.folder), **done.document})
        codes.append(done.exit_code)
        if not how.json:
            bench_view.verdict(done.document, done.folder)
        if (stop := done.stop) is not None:
            break
    if how.json:
        show.json(documents[0] if how.repeat == 1 else {"runs": documents})
    if stop is not None:
        hint = f"what was measured so far is in {documents[-1]['folder']}"
        raise StoppedError(stop.message, stop.exit_code, hint=hint)
    return int(max(codes))


def ui(config: Path | None, wished: Wish, out: Path | None, port: int) -> NoReturn:
    """Say where the page is, and become it."""
    from dsctl.flows import bench
    from dsctl.flows.project import open_project

    project = open_project(config)
    show.Terminal().say(f"the page: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    bench.page(project, wished, out, port)


def search(
    config: Path | None, wished: Wish, goal: Goal, quest: Quest, out: Path | None, *, json: bool, quiet: bool
) -> int:
    """Search, show, and return the exit code."""
    from dsctl.bench import summary
    from dsctl.cli import bench_view
    from dsctl.flows import searching
    from dsctl.flows.project import open_project

    with bench_view.watcher(is_quiet=quiet) as watcher:
        found = searching.search(open_project(config), wished, goal, quest, out, watcher)
    told = found.as_json()
    if json:
        show.json(told)
    else:
        show.result(summary.bracket(told))
    return int(Exit.FAILED if found.bracket.passed is None else Exit.OK)
