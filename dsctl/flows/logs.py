"""logs: the last lines of every program's log, and the new ones as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from dsctl.base.errors import UsageError
from dsctl.flows.project import Project

POLL_S = 0.2
TAIL_BYTES = 256 << 10


def logs(project: Project, name: str | None, lines: int, *, follow: bool) -> Iterator[str]:
    """Lines, marked with the program's name when there are several; endless with `follow`."""
    names = [name] if name else _names(project)
    paths = {each: _path(project, each) for each in names}
    width = max((len(each) for each in names), default=0)
    ends: dict[str, int] = {}
    for each, path in paths.items():
        text, ends[each] = _read(path, max(0, _size(path) - TAIL_BYTES))
        yield from _marked(text.splitlines()[-lines:] if lines else [], each, width if len(names) > 1 else 0)
    while follow:
        for each, path in paths.items():
            start = ends[each] if _size(path) >= ends[each] else 0  # shorter than before: it was rotated
            text, ends[each] = _read(path, start)
            yield from _marked(text.splitlines(), each, width if len(names) > 1 else 0)
        time.sleep(POLL_S)


def _names(project: Project) -> list[str]:
    found = [name.removesuffix(".log") for name in project.door.names(project.places.logs) if name.endswith(".log")]
    if not found:
        raise UsageError(f"no logs of {project.places.project} in {project.places.logs}", hint="dsctl deploy")
    return found


def _path(project: Project, name: str) -> Path:
    path = project.places.supervisor / "supervisord.log" if name == "supervisord" else project.places.log(name)
    if not path.is_file() or "/" in name:
        known = ", ".join([*_names(project), "supervisord"])
        raise UsageError(f"no log of {name!r}", hint=f"one of: {known}")
    return path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, start: int) -> tuple[str, int]:
    """Whole lines from `start` on, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            raw = file.read()
    except OSError:
        return "", start
    whole = raw.rfind(b"\n") + 1
    return raw[:whole].decode("utf-8", "replace"), start + whole


def _marked(lines: list[str], name: str, width: int) -> list[str]:
    return [f"{name.ljust(width)} | {line}" if width else line for line in lines]
