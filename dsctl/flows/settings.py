"""The verbs about dsctl.yaml itself: show it, explain it, write a first one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import UsageError
from dsctl.config import schema as schemas
from dsctl.config.schema import Scalar
from dsctl.config.settings import FILE_NAME, load


@dataclass(frozen=True, slots=True)
class Resolved:
    """All settings in effect."""

    source: str | None
    values: dict[str, Scalar]
    text: str  # as dsctl.yaml


def resolved(path: Path | None) -> Resolved:
    """The settings in effect, the user's marked."""
    settings = load(path)
    lines: list[str] = []
    section = ""
    for key in settings.values:
        head, _, name = key.rpartition(".")
        if head != section:
            section = head
            lines.append(f"{head}:")
        mark = f"  # {settings.source}" if key in settings.given else ""
        lines.append(("  " if head else "") + f"{name}: {_yaml(settings.values[key])}{mark}")
    source = str(settings.source) if settings.source else None
    return Resolved(source, dict(settings.values), "\n".join(lines))


def reference() -> str:
    """reference.yml, word for word."""
    return schemas.reference_text()


def json_schema() -> dict[str, object]:
    """The reference as JSON Schema."""
    return schemas.json_schema()


def init(path: Path | None, *, is_forced: bool) -> Path:
    """Writes a first dsctl.yaml: the reference with every setting commented out. Refuses to replace a file."""
    target = path or Path.cwd() / FILE_NAME
    if target.exists() and not is_forced:
        raise UsageError(f"{target} exists already", hint="dsctl init --force to replace it")
    target.write_text(first_file(), encoding="utf-8")
    return target


def first_file() -> str:
    """The reference with every setting as a comment: reading it gives the defaults."""
    lines = ["# dsctl.yaml: take the '# ' away from what you change.", ""]
    for line in schemas.reference_text().splitlines()[4:]:
        is_setting = bool(line.strip()) and not line.lstrip().startswith("#")
        lines.append(f"# {line}" if is_setting else line)
    return "\n".join(lines) + "\n"


def _yaml(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return '""' if value == "" else str(value)
