"""The verbs about dsctl.yaml itself: show it, explain it, write a first one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import UsageError
from dsctl.config import schema as schemas
from dsctl.config.inventory import expand_all
from dsctl.config.inventoryfile import FILE_NAME as INVENTORY_NAME
from dsctl.config.schema import Scalar
from dsctl.config.settings import FILE_NAME, load

FIRST_INVENTORY = """# Groups of hosts: names, ranges (gpu0[1-4]), lists. Below `hosts:` a host may say more, such as
#   hosts: {gpu01: {address: 10.0.0.1, user: ops, port: 22, jump: bastion, fabric: 192.168.7.1}}
"""


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


def init(path: Path | None, *, is_forced: bool, hosts: str = "") -> Path:
    """Writes a first dsctl.yaml: the reference with every setting commented out. Refuses to replace a file.

    With `hosts` (names and ranges) also a hosts.yaml beside it with these hosts as the group `fleet`, which the first
    dsctl.yaml then names.
    """
    target = path or Path.cwd() / FILE_NAME
    inventory = target.parent / INVENTORY_NAME
    for each in (target, *([inventory] if hosts else [])):
        if each.exists() and not is_forced:
            raise UsageError(f"{each} exists already", hint="dsctl init --force to replace it")
    text = first_file()
    if hosts:
        expand_all(re.split(r"[,\s]+", hosts.strip()), "--hosts")
        inventory.write_text(f"{FIRST_INVENTORY}groups:\n  fleet: {json.dumps(hosts.strip())}\n", encoding="utf-8")
        text = text.replace('#   hosts: ""', "  hosts: fleet", 1).replace("# placement:", "placement:", 1)
    target.write_text(text, encoding="utf-8")
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
