"""bench run: find what is to be measured, measure it, judge it, and keep the evidence."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dsctl.base.errors import PreflightError, StoppedError, UsageError
from dsctl.base.exits import Exit
from dsctl.bench import records, run, slo
from dsctl.facts.programs import Label
from dsctl.flows.foreground import become, need
from dsctl.flows.observe import gateway_label
from dsctl.flows.project import Project
from dsctl.flows.status import status

if TYPE_CHECKING:
    from dsctl.bench.progress import Watcher
    from dsctl.bench.wish import Wish

KEY = "DSCTL_API_KEY"
FOLDER = "dsctl-bench"
OBJECTIVES = "error_rate=1%"  # when nothing else is asked: most requests should succeed
EXITS = {"invalid": Exit.INVALID, "unknown": Exit.INVALID, "fail": Exit.FAILED}


@dataclass(frozen=True, slots=True)
class Goal:
    """What the run should reach, as it was written."""

    limits: str | None = None
    preset: str | None = None
    attainment: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run that is over: its run.json, where it lies, and the exit code; `stop` is what interrupted it."""

    document: dict[str, Any]
    folder: Path
    exit_code: Exit
    stop: StoppedError | None = None


def bench(project: Project, wish: Wish, goal: Goal, out: Path | None, watcher: Watcher, *, mock: bool) -> Verdict:
    """Measure `wish.url`, the stand-in server, or what is deployed as this project."""
    need("bench", "bench")
    from dsctl.bench import judge, report
    from dsctl.bench.runs import Run

    objectives = slo.wished(goal.limits, goal.preset, goal.attainment) or slo.parse(OBJECTIVES)
    with site(project, wish, mock=mock) as found:
        folder = folder_of(out)
        ran = run.measure(with_key(wish), found, folder, watcher)
    document = judge.document(ran.facts, ran.rows, objectives)
    records.write_run(folder, document)
    report.write(folder / "report.html", Run(folder, document, ran.facts, tuple(ran.rows)), document)
    code = ran.stop.exit_code if ran.stop else EXITS.get(str(document["verdict"]), Exit.OK)
    return Verdict(document, folder, code, ran.stop)


def page(project: Project, wish: Wish, out: Path | None, port: int) -> NoReturn:
    """Become locust with its web page on the loopback, with users that ask what `wish` says; its host is the server."""
    need("bench", "bench ui")
    from dsctl.bench import locustfile_path, plan
    from dsctl.bench.loads import ENDLESS, Level, Load
    from dsctl.bench.preflight import Look
    from dsctl.bench.wish import CONCURRENCY, workload_of

    wish = with_key(wish)
    with site(project, wish, mock=False) as found, Look(wish, found.url) as look:
        target = look.target()
    folder = (out or Path(FOLDER) / "ui").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    load = Load(kind="closed", levels=[Level(1, ENDLESS)])
    plan.save(plan.Plan(target=target, load=load, workload=workload_of(wish, [])), folder / "plan.json")
    os.environ["DSCTL_BENCH_FOLDER"] = str(folder)
    users = str(wish.concurrency or CONCURRENCY)
    become(
        "locust",
        ["-f", str(locustfile_path()), "--web-host", "127.0.0.1", "--web-port", str(port), "-u", users, "-r", users],
    )


@contextmanager
def site(project: Project, wish: Wish, *, mock: bool) -> Generator[run.Site]:
    """What is measured: the stand-in server while it is needed, `wish.url`, or what is deployed as this project."""
    if mock:
        if wish.url is not None:
            raise UsageError("--mock brings its own server; leave out --url")
        from dsctl.bench.mock import serving

        need("gateway", "bench --mock")
        with serving() as stand_in:
            yield run.Site(stand_in.url, mock=stand_in)
    elif wish.url is not None:
        yield run.Site(wish.url)
    else:
        label = gateway_label(project)
        if not isinstance(label, Label):
            name = project.places.project
            raise PreflightError(f"nothing is deployed as {name}", hint="dsctl deploy, or --url http://…, or --mock")
        yield run.Site(label.url, lambda: _lives(project))


def _lives(project: Project) -> list[str]:
    """Every replica with what changes when it restarts."""
    found = status(project).replicas
    return [f"{one.name} {one.api_pid} {one.core_pids} {one.restarts}" for one in found]


def with_key(wish: Wish) -> Wish:
    """The wish with the usual variable for the key, where that is set and none was named."""
    return replace(wish, api_key_env=KEY) if wish.api_key_env is None and os.environ.get(KEY) else wish


def folders(out: Path | None, repeat: int) -> list[Path | None]:
    """Where each of the repeated runs goes; a single one where `out` says."""
    if repeat == 1:
        return [out]
    base = out or Path(FOLDER) / time.strftime("%Y%m%d-%H%M%S")
    return [base / f"run-{number}" for number in range(1, repeat + 1)]


def folder_of(out: Path | None) -> Path:
    """An own directory for the run; one that holds a run already is not written over."""
    folder = out or Path(FOLDER) / time.strftime("%Y%m%d-%H%M%S")
    if (folder / records.RUN).exists() or (folder / records.ROWS).exists():
        raise UsageError(f"{folder} holds a run already", hint="choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be made", why=str(error)) from error
    return folder
