"""templates/ + values → text: one pure function where anything undefined is an error; and supervisor's files by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsctl.base.errors import ConfigError
from dsctl.base.places import Places, data_root
from dsctl.planning.wish import ProgramSpec


def render(template: str, values: Mapping[str, Any]) -> str:
    """The template of that name under templates/ with these values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(data_root() / "templates"), undefined=StrictUndefined, autoescape=False,  # noqa: S701 - not HTML
        keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)


def supervisord_conf(places: Places, open_files: int) -> str:
    """supervisord's own configuration."""
    places.check()
    values = {
        "project": places.project,
        "socket": plain(places.socket),
        "directory": plain(places.supervisor),
        "logs": plain(places.logs),
        "open_files": open_files,
    }
    return render("supervisor/supervisord.conf.j2", values)


def program_conf(spec: ProgramSpec, places: Places) -> str:
    """The file of one program; its first line is the label."""
    values = {
        "label": spec.label.line(),
        "name": spec.label.name,
        "command": " ".join(quoted(word) for word in spec.argv),
        "directory": plain(places.root),
        "environment": ",".join(f"{key}={assigned(value)}" for key, value in spec.environment.items()),
        "log": plain(places.log(spec.label.name)),
        "stop_wait_s": spec.stop_wait_s,
    }
    return render("supervisor/program.conf.j2", values)


def plain(path: Path) -> str:
    """A path as a whole value of supervisor's configuration."""
    return str(path).replace("%", "%%")


def quoted(word: str) -> str:
    """A word within a value, in double quotes where it is not plain; ConfigError when no quoting can hold it."""
    if any(mark in word for mark in ('"', "\n", "\\")) or " ;" in word or " #" in word:
        raise ConfigError(f"supervisor cannot be given {word!r}: it holds a quote, a backslash, or ' ;' or ' #'")
    return word if re.fullmatch(r"[A-Za-z0-9_./:-]+", word) else '"' + word.replace("%", "%%") + '"'


def assigned(value: str) -> str:
    """A value of the environment, always in double quotes; ConfigError when no quoting can hold it."""
    inner = quoted(value).strip('"')
    if "'" in value:
        raise ConfigError(f"supervisor cannot put {value!r} into an environment: it holds a quote")
    return f'"{inner}"'
