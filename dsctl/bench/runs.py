"""Runs as they lie on disk: one directory a run, or a directory of repeated runs; damage is told by file."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dsctl.base.errors import DsctlError, IncomparableError, InvalidError, UsageError
from dsctl.bench import metrics, records
from dsctl.bench.metrics import Sample
from dsctl.bench.records import Record, RunFacts

# What may differ between comparable runs: where things are, how the client was built, what is asked of the result.
INCIDENTAL = frozenset(
    {
        "url", "out", "workers", "api_key_env", "cacert", "insecure", "repeat", "scrape_metrics", "slo", "slo_preset",
        "attainment", "timeout", "drain", "label", "json", "quiet", "verbose", "mock",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One run: where it lies, run.json as it is, its own facts, and every row."""

    path: Path
    told: dict[str, Any]
    facts: RunFacts
    rows: tuple[Record, ...]

    @property
    def sample(self) -> Sample:
        """The measured requests."""
        return metrics.sample(self.rows, self.facts.window)


def load(path: Path) -> Run:
    """One run; UsageError naming the file that is missing, damaged, empty or from a newer dsctl."""
    directory = path.parent if path.name in (records.RUN, records.ROWS) else path
    try:
        told = records.read_run(directory)
        facts = records.facts(told)
        rows = tuple(records.read(directory))
    except UsageError:
        raise
    except DsctlError as error:
        message = error.message if str(directory) in error.message else f"{directory / records.RUN}: {error.message}"
        raise UsageError(message, why=error.why, hint="measure again: dsctl bench run --out DIR") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{directory / records.RUN} is no run.json of dsctl", why=str(error)) from error
    except zlib.error as error:
        raise UsageError(f"{directory / records.ROWS} is damaged", why=str(error), hint="measure again") from error
    version = told.get("definitions_version", metrics.DEFINITIONS_VERSION)
    if not isinstance(version, int) or version > metrics.DEFINITIONS_VERSION:
        raise UsageError(
            f"{directory / records.RUN} uses definitions {version}, this dsctl knows {metrics.DEFINITIONS_VERSION}",
            hint="upgrade this dsctl",
        )
    if not rows:
        raise UsageError(f"{directory / records.ROWS} holds no request", hint="measure again with a longer --duration")
    if facts.valid:
        facts = msgspec.structs.replace(facts, reasons=[])  # those of a valid run explain its verdict, not its validity
    return Run(directory, told, facts, rows)


def load_all(path: Path) -> list[Run]:
    """The runs of a directory: itself, or (repeats) each directory in it that holds a run.json, by name."""
    if not path.exists():
        raise UsageError(f"{path} does not exist", hint="dsctl bench run --out DIR makes one")
    if path.is_file() or (path / records.RUN).exists():
        return [load(path)]
    inside = sorted((entry for entry in path.iterdir() if (entry / records.RUN).exists()), key=_natural)
    if not inside:
        raise UsageError(f"{path} holds no {records.RUN}", hint="dsctl bench run --out DIR makes one")
    return [load(entry) for entry in inside]


def _natural(path: Path) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, path.name))
    return (int(digits) if digits else 0, path.name)


def require_valid(runs: Iterable[Run]) -> None:
    """InvalidError naming the first run that does not believe itself."""
    for run in runs:
        if not run.facts.valid:
            raise InvalidError(f"{run.path} is not valid", why="\n".join(run.facts.reasons), hint="measure again")


def require_comparable(a: Iterable[Run], b: Iterable[Run], allowed: frozenset[str] = frozenset()) -> None:
    """IncomparableError naming every difference in what was asked of the server, but those that are `allowed`."""
    runs_a, runs_b = list(a), list(b)
    found = [
        f"{name}: {_show(one)} in {runs_a[0].path}, {_show(other)} in {runs_b[0].path}"
        for name, one, other in _aspects(runs_a, runs_b)
        if one != other and name not in allowed
    ]
    if found:
        names = ",".join(line.partition(":")[0] for line in found)
        raise IncomparableError(
            "the runs measured different things", why="\n".join(found),
            hint=f"measure both with the same options and seed; if that difference is the question: --across {names}",
        )  # fmt: skip


def _aspects(a: list[Run], b: list[Run]) -> list[tuple[str, Any, Any]]:
    """(name, what A had, what B had) for all that has to be equal; a value that varied within a side is a list."""
    sides = [[_asked(run) for run in side] for side in (a, b)]
    names = dict.fromkeys(name for side in sides for asked in side for name in asked)
    return [(name, *(_each([asked.get(name) for asked in side]) for side in sides)) for name in names]


def _asked(run: Run) -> dict[str, Any]:
    """What a run asked of its server."""
    facts = run.facts
    asked: dict[str, Any] = {"load mode": facts.mode}
    asked |= {name: facts.config[name] for name in sorted(facts.config) if name not in INCIDENTAL}
    asked["requests"] = facts.request_set_sha256
    if facts.mode == "open":
        asked["schedule"] = facts.schedule_sha256
    return asked


def _each(values: list[Any]) -> Any:
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct[0] if len(distinct) == 1 else sorted(distinct, key=str)


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "…"
